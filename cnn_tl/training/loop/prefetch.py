"""The next item fetched while a device is still busy with this one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Ahead(Generic[T]):
    """An iterator whose next item can be fetched before it is asked for.

    Attributes:
        waited: seconds that the items have waited for images while the device had nothing else to do.
    """

    def __init__(self, items: Iterator[T], reading: Callable[[], float]) -> None:
        """Take items, and what tells for how many seconds in all they have waited for images so far."""
        self._items, self._reading = items, reading
        self._fetched: list[T | Exception] = []
        self.waited = 0.0

    def fetch(self, is_busy: Callable[[], bool] = lambda: False) -> None:
        """Get the next item, if it is not there yet; what the items raise is raised where it is asked for.

        Args:
            is_busy: whether the device is still at work; if so when the item has come, nothing waited for it.
        """
        if self._fetched:
            return
        before = self._reading()
        try:
            self._fetched.append(next(self._items))
        except Exception as error:  # noqa: BLE001 - whatever it is, the step under way is finished first
            self._fetched.append(error)
        if not is_busy():
            self.waited += self._reading() - before

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self.fetch()
        item = self._fetched.pop()
        if isinstance(item, Exception):
            raise item
        return item


def busy(device: torch.device) -> Callable[[], bool]:
    """Return a function that says whether the device is still at what it has been given so far; a CPU never is."""
    if device.type != "cuda":
        return lambda: False
    given = torch.cuda.Event()  # type: ignore[no-untyped-call]
    given.record(torch.cuda.current_stream(device))
    return lambda: not given.query()  # type: ignore[no-untyped-call]

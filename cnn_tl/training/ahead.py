"""The next item fetched while a device is still busy with this one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """An iterator whose next item can be fetched before it is asked for.

    Attributes:
        waited: seconds spent on fetching.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._fetched: list[T | Exception] = []
        self.waited = 0.0

    def fetch(self) -> None:
        """Get the next item, if it is not there yet; what the items raise is raised where it is asked for."""
        if self._fetched:
            return
        started = time.monotonic()
        try:
            self._fetched.append(next(self._items))
        except Exception as error:  # noqa: BLE001 - whatever it is, the step under way is finished first
            self._fetched.append(error)
        self.waited += time.monotonic() - started

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self.fetch()
        item = self._fetched.pop()
        if isinstance(item, Exception):
            raise item
        return item

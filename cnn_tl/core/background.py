"""A call that runs in a thread beside its caller, such as the import of torch while files are listed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_busy: set[threading.Thread] = set()


class Background(Generic[T]):
    """A call in a thread of its own, which begins at once."""

    def __init__(self, call: Callable[[], T], name: str) -> None:
        self._call = call
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name)
        _busy.add(self._thread)
        self._thread.start()

    def result(self) -> T:
        """Wait for the call, and return its result or raise its error; each time the same."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def wait(self) -> None:
        """Wait for the call, whatever its outcome is."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001 - raised again by `result`
            self._error = error
        finally:
            _busy.discard(self._thread)


def is_busy() -> bool:
    """Return whether a call is still running: Python would wait for it before the process ends."""
    return bool(_busy)

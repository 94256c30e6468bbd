"""Calls that run in a thread beside their caller, such as the import of torch while files are listed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")

_busy: set[object] = set()
"""One object for each call that has not ended."""


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


class BackgroundThread:
    """A thread that makes one call after another; it ends when this object is no longer referenced."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Queue a call, and return its future."""
        token = object()
        _busy.add(token)
        future = self._pool.submit(call)
        future.add_done_callback(lambda _: _busy.discard(token))
        return future


def is_busy() -> bool:
    """Return whether a call is still running: Python would wait for it before the process ends."""
    return bool(_busy)

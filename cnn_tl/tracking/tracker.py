"""The interface of a tracker, and the guard that keeps its errors away from the run."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cnn_tl.tracking.flat_rows import Scalar

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class TrackedRun:
    """The run to track: its folder, where a tracker keeps its own files, and its recipe as returned by `flatten`."""

    run: Path
    params: Mapping[str, Scalar]


class Tracker(Protocol):
    """One open tracker; it may raise any error."""

    def rows(self, rows: Rows) -> None:
        """Write the rows that neither this nor an earlier process has written; `rows` are all so far."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result of the finished run."""

    def close(self, *, finished: bool) -> None:
        """Release all resources; another process may resume a run that has not finished."""


Opener = Callable[[TrackedRun], Tracker]


class Tracking:
    """All trackers of a run. An error of a tracker becomes one warning, and the tracker is closed."""

    def __init__(self, warn: Callable[[str], None] = warnings.warn) -> None:
        self._warn = warn
        self._finished = False
        self._open: dict[str, Tracker] = {}

    def open(self, name: str, opener: Opener, tracked_run: TrackedRun) -> None:
        """Open a tracker."""
        with self._guard(name):
            self._open[name] = opener(tracked_run)

    def rows(self, rows: Rows) -> None:
        """Pass on all rows of metrics so far, after each epoch."""
        for name, tracker in list(self._open.items()):
            with self._guard(name):
                tracker.rows(rows)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Pass on the result of the finished run."""
        self._finished = True
        for name, tracker in list(self._open.items()):
            with self._guard(name):
                tracker.finish(result)

    def close(self) -> None:
        """Close what is open; closing twice does nothing."""
        for name, tracker in list(self._open.items()):
            with self._guard(name):
                tracker.close(finished=self._finished)
        self._open.clear()

    @contextlib.contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises must not stop the run
            tracker = self._open.pop(name, None)
            if tracker is not None:
                with contextlib.suppress(Exception):
                    tracker.close(finished=False)
            reason = " ".join(str(error).split()) or type(error).__name__
            self._warn(f"{name}: {reason}; the run continues without it")

"""What a tracker is, and the guard that keeps its troubles away from the run."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cnn_tl.tracking.table import Scalar

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Subject:
    """What is tracked: the run folder, in which a tracker keeps its own files, and the recipe as `flatten` gives it."""

    run: Path
    params: Mapping[str, Scalar]


class Tracker(Protocol):
    """One open tracker; it may raise whatever it likes."""

    def rows(self, rows: Rows) -> None:
        """Write those rows that are not written yet, also not by a process before; `rows` are all so far."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result of the finished run."""

    def close(self, *, finished: bool) -> None:
        """Let go of everything; a run that has not finished may be resumed by another process."""


Opener = Callable[[Subject], Tracker]


class Tracking:
    """All trackers of a run. Whatever one of them raises becomes one warning, and it is not asked again."""

    def __init__(self, warn: Callable[[str], None] = warnings.warn) -> None:
        self._warn = warn
        self._finished = False
        self._open: dict[str, Tracker] = {}

    def open(self, name: str, opener: Opener, subject: Subject) -> None:
        """Open one more tracker."""
        with self._guard(name):
            self._open[name] = opener(subject)

    def rows(self, rows: Rows) -> None:
        """Tell all rows of metrics so far, after each epoch."""
        for name, tracker in list(self._open.items()):
            with self._guard(name):
                tracker.rows(rows)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Tell the result of the finished run."""
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
        except Exception as error:  # noqa: BLE001 - a tracker's troubles are its own, whatever they are
            tracker = self._open.pop(name, None)
            if tracker is not None:
                with contextlib.suppress(Exception):
                    tracker.close(finished=False)
            reason = " ".join(str(error).split()) or type(error).__name__
            self._warn(f"{name}: {reason}; the run goes on and is no longer tracked there")

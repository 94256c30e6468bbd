"""Progress in a Jupyter notebook: one line that changes while a task runs, and goes with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

from cnn_tl.cli.terminal.bars import TerminalObserver

SECONDS_BETWEEN_UPDATES = 0.25


class NotebookObserver(TerminalObserver):
    """Shows a task by an output of the cell that is updated in place, which needs no widgets; the rest as lines."""

    def __init__(self, screen: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(screen, clock)
        self._shown: Any = None
        self._updated = float("-inf")

    def start(self, task: str, total: int | None, unit: str = "images") -> None:
        """Name the task."""
        super().start(task, total, unit)
        self._show(task)

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        """Show how far the innermost task is, a few times a second."""
        task, now = self._tasks[-1], self._clock()
        task.advance(done, figures or {}, now)
        if now - self._updated >= SECONDS_BETWEEN_UPDATES:
            self._updated = now
            self._show("  ".join(task.parts()))

    def finish(self) -> None:
        """Go back to the task around it, or show nothing."""
        super().finish()
        self._show(self._tasks[-1].name if self._tasks else "")

    def _show(self, text: str) -> None:
        bundle = {"text/plain": text}
        if self._shown is None:
            from IPython.display import display

            self._shown = display(bundle, raw=True, display_id=True)
        elif text or not self._tasks:
            self._shown.update(bundle, raw=True)

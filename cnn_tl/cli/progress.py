"""Progress on stderr: a live bar for each task on a terminal, an occasional plain line anywhere else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from cnn_tl.cli import console
from cnn_tl.progress import Observer

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SECONDS_BETWEEN_LINES = 10.0
_IMAGES_PER_SECOND = "images_per_second"


@dataclass
class _Running:
    """A task between `start` and `finish`.

    The rate is taken from the latest advances and begins with the first, so that neither the warm-up nor what
    a cache or a checkpoint had ready counts as speed.
    """

    name: str
    total: int | None
    done: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    bar: TaskID | None = None
    history: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=100))

    def advance(self, done: int, figures: Mapping[str, float], now: float) -> None:
        self.done += done
        self.figures.update(figures)
        self.history.append((now, self.done))

    def progress(self) -> str:
        """Return such as "120/400  85 img/s  loss 0.412  3 s left"."""
        (then, before), (now, done) = self.history[0], self.history[-1]
        rate = (done - before) / (now - then) if now > then else 0.0
        parts = [f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"]
        if rate:
            parts.append(describe(_IMAGES_PER_SECOND, rate))
        parts += [describe(name, value) for name, value in self.figures.items() if name != _IMAGES_PER_SECOND]
        if rate and self.total is not None and self.done < self.total:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        return "  ".join(parts)


class TerminalObserver(Observer):
    """Shows what the library tells; bars are live on a terminal only and leave nothing behind."""

    def __init__(self, screen: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = screen or console.err
        self._clock = clock
        self._tasks: list[_Running] = []
        self._bars: Progress | None = None
        self._last_line = clock()

    def note(self, text: str) -> None:
        """Print a remark; a live bar moves down for it."""
        self._screen.print(Text(text, style="dim"))

    def warn(self, text: str) -> None:
        """Print a warning; a live bar moves down for it."""
        self._screen.print(Text.assemble(("warning: ", "yellow"), text))

    def start(self, task: str, total: int | None) -> None:
        """Show a bar for `task`, below those that are still running."""
        running = _Running(task, total)
        self._tasks.append(running)
        if self._screen.is_interactive:
            running.bar = self._live_bars().add_task(task, total=total, progress="")

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        """Move the bar of the innermost task; off a terminal, print a line if the last one is old."""
        task, now = self._tasks[-1], self._clock()
        task.advance(done, figures or {}, now)
        if self._bars is not None and task.bar is not None:
            self._bars.update(task.bar, completed=task.done, progress=task.progress())
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._screen.print(Text(f"{task.name}: {task.progress()}"))

    def finish(self) -> None:
        """Take the bar of the innermost task away."""
        task = self._tasks.pop()
        if self._bars is not None and task.bar is not None:
            self._bars.remove_task(task.bar)
            if not self._tasks:
                self._bars.stop()
                self._bars = None

    def epoch(self, figures: Mapping[str, float]) -> None:
        """Print one line that stays, such as "epoch 3/5  loss 0.412  val accuracy 94.7 %  212 img/s"."""
        count = f"epoch {figures['epoch']}/{figures['epochs']}"
        known = ("epoch", "epochs", "step")
        shown = [describe(name, value) for name, value in figures.items() if name not in known]
        self._screen.print(Text("  ".join([count, *shown])))
        self._last_line = self._clock()

    def _live_bars(self) -> Progress:
        """Return the running display; stdout stays untouched, because results may be flowing through it."""
        if self._bars is None:
            from rich.progress import BarColumn, Progress, TextColumn

            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[progress]}", markup=False),
                console=self._screen,
                transient=True,
                redirect_stdout=False,
            )
            self._bars.start()
            self._screen.show_cursor()  # a process that is killed must not leave a terminal without one
        return self._bars


def describe(name: str, value: float) -> str:
    """Return a figure as a person reads it: `val_accuracy` 0.947 is "val accuracy 94.7 %"."""
    if name == _IMAGES_PER_SECOND:
        return f"{value:.3g} img/s" if value < 100 else f"{value:,.0f} img/s"
    words = name.replace("_", " ")
    return f"{words} {100 * value:.1f} %" if name.endswith("accuracy") else f"{words} {value:.3g}"


def duration(seconds: float) -> str:
    """Return such as "8 s", "3 min 20 s" or "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"

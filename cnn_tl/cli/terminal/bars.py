"""Progress: live bars on a terminal, one line that changes in a notebook, an occasional line on stderr elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from cnn_tl.cli.terminal import console
from cnn_tl.core.formatting import duration, percent, rate
from cnn_tl.core.progress import Observer

if TYPE_CHECKING:
    from rich.progress import TaskID

SECONDS_BETWEEN_LINES = 10.0
"""Off a terminal, a task prints its progress no more often than this."""

SECONDS_BETWEEN_UPDATES = 0.25
"""In a notebook."""

_IMAGES_PER_SECOND = "images_per_second"

_LEFT = len("59 min left")
_VALUE = len(" 1.23e-05")
_FIGURE = len("  loss") + _VALUE
_LEAST_BAR, _MOST_BAR = 8, 40
_UNCOUNTED = 9_999
"""Widths in columns of the fields of a bar's line; `_UNCOUNTED` is the largest count of a task without a total."""


@dataclass
class _Running:
    """A task between `start` and `finish`.

    Its rate is measured over the latest advances, from the first one on, so that neither the warm-up nor what came
    from a cache or a checkpoint counts as speed.
    """

    name: str
    total: int | None
    unit: str = "images"
    done: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    bar: TaskID | None = None
    history: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=100))

    def advance(self, done: int, figures: Mapping[str, float], now: float) -> None:
        self.done += done
        self.figures.update(figures)
        self.history.append((now, self.done))

    @property
    def rate(self) -> float:
        """Items a second over the latest advances; 0 while unknown."""
        if not self.history:
            return 0.0
        (start, first), (now, done) = self.history[0], self.history[-1]
        return (done - first) / (now - start) if now > start else 0.0

    def count(self) -> str:
        """Return such as "120/400"."""
        return f"{self.done:,}" if self.total is None else f"{self.done:,}/{self.total:,}"

    def speed(self) -> str:
        """Return such as "85 img/s"; empty while unknown."""
        return rate(self.rate, self.unit) if self.rate else ""

    @property
    def speed_width(self) -> int:
        """The most columns that `speed` takes."""
        return len(rate(12_345, self.unit))

    def left(self, in_words: Callable[[float], str]) -> str:
        """Return such as "3 s left"; empty while unknown."""
        if not self.rate or self.total is None or self.done >= self.total:
            return ""
        return f"{in_words(max(1, round((self.total - self.done) / self.rate)))} left"

    def others(self) -> list[str]:
        """Return such as ["loss 0.412"]."""
        return [describe(name, value) for name, value in self.figures.items() if name != _IMAGES_PER_SECOND]

    def parts(self) -> list[str]:
        """Return everything known, such as ["training: 120/400", "85 img/s", "loss 0.412", "3 s left"]."""
        return [f"{self.name}: {self.count()}", *filter(None, (self.speed(), *self.others(), self.left(duration)))]


class TerminalObserver(Observer):
    """Shows progress events on stderr; live bars on a terminal only, which disappear when their task ends."""

    def __init__(self, screen: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = screen or console.err
        self._clock = clock
        self._tasks: list[_Running] = []
        self._bars: Bars | None = None
        self._last_line = clock()

    def note(self, text: str) -> None:
        """Print a note above the live bars."""
        console.put(Text(text, style="dim"), self._screen)

    def warn(self, text: str) -> None:
        """Print a warning above the live bars."""
        console.put(Text.assemble(("warning: ", "yellow"), text), self._screen)

    def start(self, task: str, total: int | None, unit: str = "images") -> None:
        """Show a bar for `task`, below those of the running tasks."""
        running = _Running(task, total, unit)
        self._tasks.append(running)
        if self._screen.is_interactive:
            if self._bars is None:
                self._bars = Bars(self._screen)
            running.bar = self._bars.add(running)

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        """Move the bar of the innermost task; off a terminal, print a line if the last one is long ago."""
        task, now = self._tasks[-1], self._clock()
        task.advance(done, figures or {}, now)
        if self._bars is not None and task.bar is not None:
            self._bars.move(task.bar, task)
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            console.put_groups(task.parts(), self._screen)

    def finish(self) -> None:
        """Remove the bar of the innermost task."""
        task = self._tasks.pop()
        if self._bars is not None and task.bar is not None:
            self._bars.remove(task.bar)
            if not self._tasks:
                self._bars.stop()
                self._bars = None

    def epoch(self, figures: Mapping[str, float]) -> None:
        """Print one line that stays, such as "epoch 3/5  loss 0.412  val accuracy 94.7%  212 img/s"."""
        count = f"epoch {figures['epoch']}/{figures['epochs']}"
        known = ("epoch", "epochs", "step")
        shown = [describe(name, value) for name, value in figures.items() if name not in known]
        console.put_groups([count, *shown], self._screen)
        self._last_line = self._clock()


class Bars:
    """The bars of the running tasks, one below the other.

    Name, bar, count, rate, time left and figures have fixed widths, which depend on the screen and the tasks but not
    on their progress, so that nothing jumps. A narrow screen drops the figures first, then the rate, then the time.
    """

    def __init__(self, screen: Console) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self._screen = screen
        self._running: dict[TaskID, _Running] = {}
        self._bar = BarColumn()
        self._live = Progress(
            TextColumn("{task.fields[name]}", markup=False),
            self._bar,
            TextColumn("{task.fields[progress]}", markup=False),
            console=screen,
            transient=True,
            redirect_stdout=False,  # results may be flowing through stdout
        )

    def add(self, running: _Running) -> TaskID:
        """Show a bar below the others."""
        added = self._live.add_task("", total=running.total, name="", progress="")
        self._running[added] = running
        for task, other in self._running.items():  # the widest name sets where all bars begin
            self.move(task, other)
        if not self._live.live.is_started:
            self._live.start()
            self._screen.show_cursor()  # a killed process must not leave a terminal without a cursor
        return added

    def move(self, task: TaskID, running: _Running) -> None:
        """Redraw a bar."""
        name = max(cell_len(other.name) for other in self._running.values())
        counts = max(len(f"{other.total or _UNCOUNTED:,}") * 2 + 1 for other in self._running.values())
        room = self._screen.width - name - 2  # blanks on both sides of the bar
        parts = [f"{running.count():>{counts}}"]
        for text, places in ((running.left(_roughly), _LEFT), (running.speed(), running.speed_width)):
            if room - len("  ".join(parts)) - 2 - places >= _LEAST_BAR:
                parts.append(f"{text:>{places}}")
        parts[1:] = reversed(parts[1:])
        bar = room - len("  ".join(parts))
        self._bar.bar_width = max(4, min(_MOST_BAR, bar if bar - _FIGURE < _LEAST_BAR else bar - _FIGURE))
        for text in running.others():
            places = len(text.rpartition(" ")[0]) + _VALUE if text[-1].isdigit() else len(text)
            if self._bar.bar_width + len("  ".join(parts)) + 2 + places <= room:
                parts.append(text.ljust(places))
        padded = set_cell_size(running.name, name)
        self._live.update(task, completed=running.done, name=padded, progress="  ".join(parts))

    def remove(self, task: TaskID) -> None:
        """Remove a bar."""
        self._live.remove_task(task)
        del self._running[task]

    def stop(self) -> None:
        """Stop drawing, and leave the screen as it was."""
        self._live.stop()


def describe(name: str, value: float) -> str:
    """Return a figure as text: `val_accuracy` 0.947 is "val accuracy 94.7%"."""
    if name == _IMAGES_PER_SECOND:
        return rate(value)
    if name == "of_limit":  # achieved beside what the device could do: it may be a little more, by chance
        return f"{round(100 * value)}% of the device's limit"
    words = name.replace("_", " ")
    return f"{words} {percent(value)}" if name.endswith("accuracy") else f"{words} {value:.3g}"


def _roughly(seconds: float) -> str:
    """Return such as "8 s", "3 min" or "2.1 h", short enough for a bar."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3570 else f"{seconds / 3600:.1f} h"


class NotebookObserver(TerminalObserver):
    """Shows the innermost task in a cell output that is updated in place, which needs no widgets; the rest as lines."""

    def __init__(self, screen: Console, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(screen, clock)
        self._shown: Any = None
        self._updated = float("-inf")

    def start(self, task: str, total: int | None, unit: str = "images") -> None:
        """Show the name of the task."""
        super().start(task, total, unit)
        self._show(task)

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        """Show the progress of the innermost task, a few times a second."""
        task, now = self._tasks[-1], self._clock()
        task.advance(done, figures or {}, now)
        if now - self._updated >= SECONDS_BETWEEN_UPDATES:
            self._updated = now
            self._show("  ".join(task.parts()))

    def finish(self) -> None:
        """Show the enclosing task again, or nothing."""
        super().finish()
        self._show(self._tasks[-1].name if self._tasks else "")

    def _show(self, text: str) -> None:
        bundle = {"text/plain": text}
        if self._shown is None:
            from IPython.display import display

            self._shown = display(bundle, raw=True, display_id=True)
        elif text or not self._tasks:
            self._shown.update(bundle, raw=True)


class WarningsOnly(Observer):
    """Prints warnings only, where the rows on stdout already show the progress."""

    def warn(self, text: str) -> None:
        """Print a warning."""
        console.warn(text)

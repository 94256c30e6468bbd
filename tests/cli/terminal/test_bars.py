"""Bars on a terminal, plain lines anywhere else."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import pytest
from rich.console import Console

from cnn_tl.cli.terminal.bars import TerminalObserver, describe
from cnn_tl.core.formatting import duration

FIGURES = {
    "epoch": 2,
    "epochs": 5,
    "step": 40,
    "loss": 0.41234,
    "val_accuracy": 0.947,
    "images_per_second": 212.4,
}
EPOCH_LINE = "epoch 2/5  loss 0.412  val accuracy 94.7%  212 img/s"


class Clock:
    """A clock that the test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def observer(clock: Clock, *, terminal: bool) -> tuple[TerminalObserver, io.StringIO]:
    stream = io.StringIO()
    screen = Console(file=stream, width=200, force_terminal=terminal, force_interactive=terminal)
    return TerminalObserver(screen, clock), stream


def work(watcher: TerminalObserver, clock: Clock, *, seconds: float, batches: int) -> Iterator[int]:
    """Go through a task of 10 images a batch."""
    with watcher.task("training", batches * 10):
        for batch in range(batches):
            clock.now += seconds
            watcher.advance(10, {"loss": 1 / (batch + 1)})
            yield batch


def test_plain_lines_are_rare_and_complete(clock: Clock) -> None:
    watcher, stream = observer(clock, terminal=False)
    list(work(watcher, clock, seconds=4, batches=8))
    assert stream.getvalue().splitlines() == [
        "training: 30/80  2.5 img/s  loss 0.333  20 s left",
        "training: 60/80  2.5 img/s  loss 0.167  8 s left",
    ]


def test_short_work_prints_no_plain_line(clock: Clock) -> None:
    watcher, stream = observer(clock, terminal=False)
    list(work(watcher, clock, seconds=0.1, batches=50))
    assert stream.getvalue() == ""


def test_what_was_ready_at_the_start_is_no_speed(clock: Clock) -> None:
    watcher, stream = observer(clock, terminal=False)
    with watcher.task("features", 1000):
        watcher.advance(900)
        for _ in range(2):
            clock.now += 10
            watcher.advance(10)
    assert stream.getvalue().splitlines()[-1] == "features: 920/1,000  1 img/s  1 min 20 s left"


def test_uncounted_task_has_no_end(clock: Clock) -> None:
    watcher, stream = observer(clock, terminal=False)
    with watcher.task("scanning", None):
        watcher.advance(100)
        clock.now = 20
        watcher.advance(1000)
    assert stream.getvalue() == "scanning: 1,100  50 img/s\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_epochs_notes_and_warnings_stay(clock: Clock, terminal: bool) -> None:
    watcher, stream = observer(clock, terminal=terminal)
    watcher.note("[bold]no markup")
    watcher.warn("look here")
    with watcher.task("epoch 2/5", 10):
        watcher.epoch(FIGURES)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue()).replace("\r", "\n").splitlines()
    stay = [line for line in lines if line and "━" not in line]
    assert stay == ["[bold]no markup", "warning: look here", EPOCH_LINE]
    assert ("\x1b" in stream.getvalue()) == terminal


def test_bar_on_a_terminal(clock: Clock) -> None:
    watcher, stream = observer(clock, terminal=True)
    for batch in work(watcher, clock, seconds=2, batches=4):
        if batch == 2:
            watcher.start("validation", 5)  # a new bar draws all of them anew
            watcher.finish()
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert re.search(r"training +━[━╸╺]+ +30/40 +5 img/s +2 s left  loss 0\.333", shown)


def test_cursor_is_never_hidden_for_long(clock: Clock) -> None:
    """A process that is killed in the middle of its work leaves a terminal that can be used."""
    watcher, stream = observer(clock, terminal=True)
    watcher.start("training", 10)
    text = stream.getvalue()
    watcher.finish()
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0


def test_inner_task_ends_before_the_outer_one(clock: Clock) -> None:
    watcher, stream = observer(clock, terminal=False)
    with watcher.task("epoch 1/2", 20):
        with watcher.task("validation", 5):
            clock.now = 10
            watcher.advance(5)
        clock.now = 20
        watcher.advance(10)
    assert stream.getvalue().splitlines() == ["validation: 5/5", "epoch 1/2: 10/20"]


def test_bars_go_away_when_the_work_fails(clock: Clock) -> None:
    watcher, stream = observer(clock, terminal=True)

    def fail() -> None:
        with watcher.task("outer", 10), watcher.task("inner", 10):
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        fail()
    ended = stream.getvalue()
    watcher.note("after")
    assert stream.getvalue().removeprefix(ended).endswith("after\x1b[0m\n")
    assert "━" not in stream.getvalue().removeprefix(ended)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("loss", 0.000123456, "loss 0.000123"),
        ("val_accuracy", 1.0, "val accuracy 100.0%"),
        ("images_per_second", 3.14159, "3.14 img/s"),
        ("images_per_second", 12345.6, "12,346 img/s"),
    ],
)
def test_describe(name: str, value: float, expected: str) -> None:
    assert describe(name, value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "under 0.01 s"),
        (0.004, "under 0.01 s"),
        (0.31, "0.31 s"),
        (0.999, "1 s"),
        (3, "3 s"),
        (4.2, "4.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (320, "5 min 20 s"),
        (3599.7, "1 h 00 min"),
        (3725, "1 h 02 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_duration(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def bars_at(width: int, clock: Clock, names: list[str], seconds: float) -> list[list[str]]:
    """Run tasks inside one another on a terminal of so many columns, and return the lines of each drawing."""
    stream = io.StringIO()
    screen = Console(file=stream, width=width, force_terminal=True, force_interactive=True, color_system="standard")
    watcher = TerminalObserver(screen, clock)
    drawn = []
    for name in names:
        watcher.start(name, 12_345)
    for number in range(8):
        clock.now += seconds * (number + 1)
        figures = {"loss": 10.0 ** (1 - number) / 3, "val_accuracy": number / 7}
        watcher.advance(1700 if number < 7 else 445, figures if number else None)
        assert watcher._bars is not None
        paper = Console(file=io.StringIO(), width=width, force_terminal=True, color_system="standard")
        paper.print(watcher._bars._live.get_renderable())
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", paper.file.getvalue())  # type: ignore[attr-defined]
        drawn.append([line for line in text.splitlines() if line])
    for _ in names:
        watcher.finish()
    return drawn


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("names", [["epoch 9/10"], ["epoch 9/10", "validation"], ["measuring this machine"]])
@pytest.mark.parametrize("seconds", [0.01, 20.0, 4000.0])
def test_nothing_in_a_bar_moves(clock: Clock, width: int, names: list[str], seconds: float) -> None:
    drawn = bars_at(width, clock, names, seconds)
    lines = [line for drawing in drawn for line in drawing]
    assert len(lines) == len(names) * len(drawn)
    assert max(map(len, lines)) <= width
    assert not [line for line in lines if "…" in line]
    spans = {re.search(r"[━╸╺ ]*[━╸╺]", line).span() for line in lines}  # type: ignore[union-attr]
    assert len({start for start, _ in spans}) == 1
    bars = {len(re.findall(r"[━╸╺]", line)) for line in lines}
    assert len(bars) == 1
    assert min(bars) >= 8
    for sign in ("/12,345", " img/s", " left", "loss "):
        places = {line.index(sign) for line in lines if sign in line}
        assert len(places) <= 1, sign
    if width >= 80:
        assert all("img/s" in line for line in lines[len(names) : -1] if line.startswith(names[-1]))


@pytest.mark.parametrize("width", [10, 20, 40])
def test_a_narrow_screen_is_no_crash(clock: Clock, width: int) -> None:
    assert bars_at(width, clock, ["epoch 9/10", "validation"], 1.0)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_an_epoch_is_broken_between_its_figures(clock: Clock, width: int) -> None:
    stream = io.StringIO()
    watcher = TerminalObserver(Console(file=stream, width=width, force_terminal=True, color_system=None), clock)
    figures = FIGURES | {"lr": 4.95e-06, "of_limit": 0.912, "val_loss": 0.4451}
    watcher.epoch(figures)
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    whole = "epoch 2/5  loss 0.412  val accuracy 94.7%  212 img/s  lr 4.95e-06  "
    whole += "91% of the device's limit  val loss 0.445"
    assert "  ".join(line.strip() for line in lines) == whole
    wide = io.StringIO()
    TerminalObserver(Console(file=wide, width=width, soft_wrap=True), clock).epoch(figures)
    assert wide.getvalue() == whole + "\n"  # off a terminal it is one line


@pytest.mark.parametrize(("unit", "shown"), [("images", "img/s"), ("channels", "channels/s"), ("stages", "stages/s")])
def test_a_rate_names_what_is_counted(clock: Clock, unit: str, shown: str) -> None:
    watcher, stream = observer(clock, terminal=False)
    with watcher.task("projecting", 100, unit):
        for _ in range(2):
            clock.now += 10
            watcher.advance(10)
    assert stream.getvalue().splitlines()[-1] == f"projecting: 20/100  1 {shown}  1 min 20 s left"

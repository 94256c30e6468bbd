"""Real processes are killed, stopped or started twice while they train, then resume to the same bits."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from warm import Command, cold
from whole_runs import assert_same_checkpoint

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")

STEPS_PER_EPOCH = 9
"""36 training images (80% of 45) in steps of 4."""

EPOCHS = 24
"""About five seconds of training: enough for three kills and the rest of the run."""

Finished = Callable[[str, int], Path]


Process = Command | subprocess.Popen[bytes]


class Trainer:
    """Runs `cnn-tl train` as a real process on a small data set and records its stderr."""

    def __init__(self, folder: Path, weights: Path) -> None:
        self.folder, self.data, self.weights = folder, folder / "data", weights
        self.started: list[Process] = []
        self.launch: Callable[..., Process] = Command
        chance = np.random.default_rng(0)
        for brightness, (name, count) in enumerate({"ash": 20, "birch": 15, "cedar": 10}.items(), 1):
            (self.data / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(60 * brightness + chance.normal(0, 25, (24, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(self.data / name / f"{number}.png")

    def command(self, run: Path, mode: str, epochs: int) -> list[str]:
        mode, _, device = mode.partition(" on ")
        frozen = ["--set", "model.freeze=last-stage"] if mode == "last-stage" else []
        mode = "finetune" if frozen else mode
        words = ["train", self.data, "--output", run, "--mode", mode, "--model", "test_resnet", "--image-size", 64]
        words += frozen
        words += [] if mode == "scratch" else ["--weights", self.weights]
        words += ["--batch-size", 4, "--device", device or "cpu", "--set", "run.precision=fp32"]
        words += ["--set", "run.deterministic=true"] if device == "cuda" else []
        words += [] if mode == "freeze" else ["--epochs", epochs]
        return [str(word) for word in words]

    def start(self, words: list[str], workers: int = 2) -> Process:
        """Start a command in a process group of its own; its stderr goes to `log`."""
        log = self.folder / f"{len(self.started)}.log"
        settings = {"HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        process = self.launch([*words, "--workers", str(workers)], settings, log)
        self.started.append(process)
        return process

    def go_on(self, run: Path, words: list[str], workers: int) -> Process:
        """Resume the run, or start it again if it was killed before it had written its recipe."""
        begun = (run / "recipe.yaml").exists()
        return self.start(["train", "--resume", "--output", str(run)] if begun else words, workers)

    def log(self, process: Process) -> str:
        return (self.folder / f"{self.started.index(process)}.log").read_text("utf-8")

    def wait_until(self, process: Process, happened: Callable[[], bool]) -> None:
        """Wait until the condition holds, and fail if the process ends first."""
        while not happened():
            assert process.poll() is None, f"it ended before that: {self.log(process)}"
            time.sleep(0.005)

    def wait_for_training(self, process: Process, run: Path, chance: random.Random) -> int:
        """Wait until the process has finished an epoch or two, and some part of the next; return the step saved."""
        before, epochs = newest_step(run), chance.randint(1, 2)
        self.wait_until(process, lambda: newest_step(run) >= before + STEPS_PER_EPOCH * epochs)
        time.sleep(chance.uniform(0, 0.15))  # about an epoch: training, validation, and the writing of two checkpoints
        return newest_step(run)


@pytest.fixture(scope="module")
def trainer(
    tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path, keep_tiny_graph: Callable[[Path], None]
) -> Iterator[Trainer]:
    keep_tiny_graph(Path(os.environ["CNN_TL_CACHE"]))  # of the undisturbed run
    made = Trainer(tmp_path_factory.mktemp("kill"), tiny_weights)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


@pytest.fixture
def from_the_start(trainer: Trainer) -> Iterator[None]:
    """Start a new interpreter for each command, so that kills come while it loads, too."""
    trainer.launch = cold
    yield
    trainer.launch = Command


@pytest.fixture(scope="module")
def undisturbed(trainer: Trainer) -> Finished:
    """Return the folder of an uninterrupted run; the one that several tests need starts at once."""
    begun: dict[tuple[str, int], tuple[Path, Process]] = {}

    def begin(mode: str, epochs: int) -> None:
        run = trainer.folder / f"undisturbed-{mode}-{epochs}"
        begun[mode, epochs] = run, trainer.start(trainer.command(run, mode, epochs))

    def finished(mode: str, epochs: int) -> Path:
        if (mode, epochs) not in begun:
            begin(mode, epochs)
        run, process = begun[mode, epochs]
        assert process.wait() == 0, trainer.log(process)
        return run

    begin("finetune", EPOCHS)
    return finished


def newest_step(run: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in (run / "checkpoints").glob("step-*")), default=0)


def what_counts(run: Path) -> dict[str, Any]:
    """Return what must not depend on interruptions: everything a run leaves except its times."""
    result = json.loads((run / "result.json").read_text())
    rows = [without_times(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {
        "files": sorted(path.name for path in run.iterdir()),
        "accuracy": {name: result[name] for name in ("accuracy", "interval", "correct", "images", "per_class")},
        "metrics": rows,
        "answers": (run / "validation.jsonl").read_text(),
        "model": {path.name: path.read_bytes() for path in (run / "model").iterdir()},
    }


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    times = ("images_per_second", "of_limit", "seconds", "features")
    kept = {name: value for name, value in row.items() if name not in times}
    return kept | {"head": without_times(kept["head"])} if "head" in kept else kept


def assert_same(run: Path, reference: Path) -> None:
    model = Path("model") / "model.safetensors"
    assert (run / model).read_bytes() == (reference / model).read_bytes()
    assert_same_checkpoint(run, reference)
    assert what_counts(run) == what_counts(reference)
    assert not list(run.rglob("*.tmp"))


@pytest.mark.usefixtures("graph_is_known")
def test_a_run_killed_three_times_ends_in_the_same_bits(trainer: Trainer, undisturbed: Finished) -> None:
    """Short form: SIGKILL at three random moments of training, each time with another number of workers."""
    run, chance = trainer.folder / "killed", random.Random(1)
    words = trainer.command(run, "finetune", EPOCHS)
    for workers in (1, 3, 2):
        process = trainer.go_on(run, words, workers)
        trainer.wait_for_training(process, run, chance)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert not (run / "result.json").exists(), "the kill came too late to mean anything"
    step = newest_step(run)
    process = trainer.go_on(run, words, workers=4)
    assert process.wait() == 0, trainer.log(process)
    assert f"resumed at step {step} of {EPOCHS * STEPS_PER_EPOCH}" in trainer.log(process)
    assert_same(run, undisturbed("finetune", EPOCHS))


@pytest.mark.usefixtures("graph_is_known")
def test_a_run_that_is_asked_to_stop_says_how_to_go_on(trainer: Trainer, undisturbed: Finished) -> None:
    """Short form: SIGTERM, then SIGINT, then both at once; the command in the message is the one that goes on."""
    run, chance = trainer.folder / "a stopped run", random.Random(3)
    words, workers = trainer.command(run, "finetune", EPOCHS), itertools.count(1)
    for number in (signal.SIGTERM, signal.SIGINT):
        process = trainer.start(words, next(workers))
        step = trainer.wait_for_training(process, run, chance)
        process.send_signal(number)
        assert process.wait() == 128 + number, trainer.log(process)
        *above, last = trainer.log(process).splitlines()
        assert last == f"stopped; go on with: cnn-tl train --resume --output '{run}'"
        assert not [line for line in above if line.startswith(("error", "Traceback"))]
        assert newest_step(run) >= step
        assert not list(run.rglob("*.tmp"))
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)  # no child of it is left
        words = shlex.split(last.partition("go on with: cnn-tl ")[2])
        stopped_at = newest_step(run)

    process = trainer.start(words, next(workers))
    trainer.wait_for_training(process, run, chance)
    assert f"resumed at step {stopped_at} of" in trainer.log(process)
    for number in (signal.SIGSTOP, signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        process.send_signal(number)  # the pair is delivered before any step can end
    assert process.wait() in (130, 143)
    assert "go on with" not in trainer.log(process), "the second signal does not wait for a good moment"

    process = trainer.start(words, next(workers))
    assert process.wait() == 0, trainer.log(process)
    assert_same(run, undisturbed("finetune", EPOCHS))


@pytest.mark.usefixtures("graph_is_known")
def test_two_processes_do_not_train_in_one_folder(trainer: Trainer, cli: Callable[..., Any]) -> None:
    """This process is the second one; the first is suspended while the second is refused."""
    run = trainer.folder / "shared"
    words = trainer.command(run, "finetune", EPOCHS)
    resume = ["train", "--resume", "--output", str(run)]
    first = trainer.start(words)
    trainer.wait_until(first, (run / ".lock").exists)
    time.sleep(0.05)  # it opens the file, then locks it; importing timm comes after that
    suspend(first)
    assert_refused(cli(*words), "another process is training in" if not begun(run) else "holds another run")
    first.send_signal(signal.SIGCONT)

    trainer.wait_for_training(first, run, random.Random(19))
    suspend(first)
    before = contents(run)
    assert_refused(cli(*words), "holds another run")
    assert_refused(cli(*resume), "another process is training in")
    assert contents(run) == before

    first.kill()
    assert first.wait() == -signal.SIGKILL
    second = trainer.start(resume)  # the lock of the dead is free
    trainer.wait_until(second, lambda: "resumed at step" in trainer.log(second))
    second.kill()


def suspend(process: Process) -> None:
    """Send SIGSTOP and wait until every thread has stopped: one that is writing finishes its system call first."""
    process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task")
    if not tasks.is_dir():  # not Linux
        time.sleep(0.5)
        return
    while any(state_of(task) not in ("T", "") for task in tasks.iterdir()):
        time.sleep(0.005)


def state_of(task: Path) -> str:
    """Return the state of a thread (proc(5)), such as T for a stopped one; empty if it has ended."""
    with contextlib.suppress(OSError):
        return (task / "stat").read_text().rpartition(") ")[2][:1]
    return ""


def begun(run: Path) -> bool:
    return (run / "recipe.yaml").exists()


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def assert_refused(outcome: Any, said: str) -> None:
    assert outcome.code == 5, outcome.err
    assert re.fullmatch(rf"error: .*{said}.*\n", outcome.err)


@pytest.mark.soak
@pytest.mark.usefixtures("from_the_start")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("mode", ["finetune", "scratch"])
def test_a_run_killed_a_hundred_times(trainer: Trainer, undisturbed: Finished, mode: str) -> None:
    """Long form: two kills in three hit training, the third any moment since the process started."""
    run, chance, epochs = trainer.folder / f"killed-{mode}", random.Random(100), 800
    words, kills, reached = trainer.command(run, mode, epochs), 0, 0
    while kills < 100:
        process = trainer.go_on(run, words, workers=1 + kills % 3)
        if kills % 3:
            trainer.wait_for_training(process, run, chance)
        else:
            time.sleep(chance.uniform(0, 6))
        process.kill()
        assert process.wait() == -signal.SIGKILL, trainer.log(process)
        assert newest_step(run) >= reached, "training went back"
        reached, kills = newest_step(run), kills + 1
    assert not (run / "result.json").exists(), "the kills came too late to mean anything"
    process = trainer.go_on(run, words, workers=2)
    assert process.wait() == 0, trainer.log(process)
    assert_same(run, undisturbed(mode, epochs))


@pytest.mark.soak
@pytest.mark.usefixtures("from_the_start")
@pytest.mark.timeout(3600)
def test_a_run_in_mode_freeze_killed_at_twenty_moments(trainer: Trainer, undisturbed: Finished) -> None:
    """Long form: a run takes only a second, so each kill gets its own run, after the manifest is written."""
    chance, killed = random.Random(20), 0
    for number in range(20):
        run = trainer.folder / f"killed-freeze-{number}"
        words = trainer.command(run, "freeze", 0)
        process = trainer.start(words)
        trainer.wait_until(process, (run / "manifest.json").exists)
        time.sleep(chance.uniform(0, 0.5))
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        process = trainer.go_on(run, words, workers=3)
        assert process.wait() == 0, trainer.log(process)
        assert_same(run, undisturbed("freeze", 0))
    assert killed >= 10


@pytest.mark.soak
@pytest.mark.usefixtures("from_the_start")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("mode", "epochs", "latest"),
    [
        ("freeze", 0, 2.0),
        ("last-stage", 60, 6.0),
        ("finetune", 60, 6.0),
        ("lp-ft", 60, 6.0),
        pytest.param("finetune on cuda", 60, 20.0, marks=pytest.mark.gpu),
    ],
)
def test_five_runs_killed_fifteen_times(
    trainer: Trainer, undisturbed: Finished, mode: str, epochs: int, latest: float
) -> None:
    """Long form, every mode: kills at any moment, each resume with another number of workers."""
    chance, kills, runs = random.Random(mode), 0, 0
    while runs < 5 or kills < 15:
        run = trainer.folder / f"often-killed-{mode}-{runs}"
        words = trainer.command(run, mode, epochs)
        for turn in range(3):
            process = trainer.go_on(run, words, workers=turn)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0.2, latest))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
        process = trainer.go_on(run, words, workers=2)
        assert process.wait() == 0, trainer.log(process)
        assert_same(run, undisturbed(mode, epochs))
        runs += 1


@pytest.mark.soak
@pytest.mark.usefixtures("from_the_start")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_twenty_times(trainer: Trainer, undisturbed: Finished, number: signal.Signals) -> None:
    """Long form of the stop by a signal."""
    run, chance, epochs = trainer.folder / f"stopped-{number.name}", random.Random(int(number)), 200
    words = trainer.command(run, "finetune", epochs)
    for stop in range(20):
        process = trainer.go_on(run, words, workers=1 + stop % 3)
        trainer.wait_for_training(process, run, chance)
        process.send_signal(number)
        assert process.wait() == 128 + number, trainer.log(process)
        assert not list(run.rglob("*.tmp"))
    process = trainer.go_on(run, words, workers=2)
    assert process.wait() == 0, trainer.log(process)
    assert_same(run, undisturbed("finetune", epochs))

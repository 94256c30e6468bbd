"""Several processes at one run: what each gets, and whole runs under torchrun against those of one process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from warm import Command
from whole_runs import StopAfter, assert_same_weights, final_weights, metrics

from cnn_tl.core.errors import DataError, ResourceError, Stopped
from cnn_tl.core.launch import _brief
from cnn_tl.core.processes import ALONE, World
from cnn_tl.recipe import Recipe
from cnn_tl.training.run import train

pytestmark = pytest.mark.skipif(os.name == "nt", reason="gloo and signals as here are those of Unix")

Launch = Callable[..., "subprocess.Popen[str]"]
PATIENCE = 120.0


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_shares_are_the_parts_of_tensor_split(size: int, count: int) -> None:
    items = list(range(count))
    shares = [World(rank, size).share(items) for rank in range(size)]
    assert [share.items for share in shares] == [part.tolist() for part in torch.tensor(items).tensor_split(size)]
    assert all(share.total == count and (not share.items or share.items[0] == share.first) for share in shares)
    assert sorted(item for rank in range(size) for item in World(rank, size).strided(items)) == items


def test_alone_every_question_answers_itself() -> None:
    assert ALONE.gather(3) == [3]
    assert ALONE.first(lambda: 4) == 4
    assert list(ALONE.in_step(iter([1, 2]), lambda: None)) == [1, 2]
    with pytest.raises(DataError), ALONE.together():
        raise DataError("x")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("[/src/gloo/pair.cc:546] Connection closed by peer\nand a trace", "Connection closed by peer"),
        ("", "RuntimeError"),
        ("\n", "RuntimeError"),
    ],
)
def test_a_message_of_theirs_becomes_a_few_words(said: str, told: str) -> None:
    assert _brief(RuntimeError(said)) == told


@pytest.fixture
def words_of(data: Path, tiny_weights: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Return the command line of a run with these flags."""

    def words(run: str, *flags: object) -> list[str]:
        common = [data, "--model", "test_resnet", "--weights", tiny_weights, "--image-size", 64, "--device", "cpu"]
        common += ["--output", tmp_path / run, "--set", "run.precision=fp32", "--workers", 1]
        return ["train", *map(str, [*common, *flags])]

    return words


@pytest.fixture
def launch(words_of: Callable[..., list[str]], graph_is_known: None, tmp_path: Path) -> Launch:
    """Start `cnn-tl train` by torchrun with two processes; stderr goes to a file beside the run."""

    def start(run: str, *flags: object, restarts: int = 0) -> subprocess.Popen[str]:
        by = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}"]
        command = [sys.executable, *by, "-m", "cnn_tl", *words_of(run, *flags)]
        with (tmp_path / f"{run}.err").open("w") as errors:
            return subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=errors, text=True, env=_environment(), start_new_session=True
            )

    return start


@pytest.fixture
def finish_warm(words_of: Callable[..., list[str]], graph_is_known: None, tmp_path: Path) -> Callable[..., None]:
    """Run `cnn-tl train` to its end in so many processes that no launcher watches."""

    def run(name: str, *flags: object, processes: int = 1) -> None:
        meeting, size = _meeting(), {"WORLD_SIZE": str(processes), "COLUMNS": "200"}
        logs = [tmp_path / f"{name}-{rank}.err" for rank in range(processes)]
        started = [
            Command(words_of(name, *flags), size | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, errors=log)
            for rank, log in enumerate(logs)
        ]
        for process, log in zip(started, logs, strict=True):
            assert process.wait(PATIENCE) == 0, log.read_text()

    return run


def _meeting() -> dict[str, str]:
    """Return where processes without a launcher meet."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}


def _environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def finish(process: subprocess.Popen[str], errors: Path) -> str:
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors.read_text()
    return out


LOOP = ("--epochs", 2, "--batch-size", 8, "--lr", 0.001, "--set", "model.bn=eval")
FINETUNE = ("--mode", "finetune", *LOOP, "--set", "train.head_start=random")
TINY_STEPS = ("--batch-size", 3, "--set", "train.micro_batch=2")


@pytest.mark.parametrize(
    "flags",
    [
        # begins as freeze does, and ends with steps of which one process has a single image, or none
        ("--mode", "lp-ft", *LOOP, *TINY_STEPS, "--set", "augment.mixup=1", "--set", "augment.cutmix=1"),
        pytest.param((*FINETUNE, *TINY_STEPS, "--set", "run.sources=device"), marks=pytest.mark.soak),
        pytest.param(("--mode", "lp-ft", *LOOP, *TINY_STEPS), marks=pytest.mark.soak),
        pytest.param(("--mode", "freeze"), marks=pytest.mark.soak),
        pytest.param(("--mode", "finetune", *LOOP, "--set", "model.freeze=last-stage"), marks=pytest.mark.soak),
        pytest.param(("--mode", "lp-ft", *LOOP), marks=pytest.mark.soak),
    ],
    ids=[
        "lp-ft in tiny steps, mixed",
        "sources on the device",
        "lp-ft in tiny steps",
        "freeze",
        "last-stage",
        "lp-ft",
    ],
)
def test_two_processes_do_what_one_does(
    launch: Launch, finish_warm: Callable[..., None], tmp_path: Path, flags: tuple[object, ...]
) -> None:
    out = finish(launch("two", *flags), tmp_path / "two.err")
    finish_warm("one", *flags)
    assert out.count("validation accuracy") == 1, "one process speaks"
    assert_two_learned_what_one_did(tmp_path)


def test_two_processes_that_pin_their_images_do_what_one_does(finish_warm: Callable[..., None], tmp_path: Path) -> None:
    flags = (*FINETUNE, "--epochs", 1, *TINY_STEPS, "--set", "run.sources=pinned")
    finish_warm("two", *flags, processes=2)
    finish_warm("one", *flags)
    assert_two_learned_what_one_did(tmp_path)


def assert_two_learned_what_one_did(tmp_path: Path) -> None:
    one, two = (json.loads((tmp_path / run / "result.json").read_text()) for run in ("one", "two"))
    assert (one["correct"], one["images"], one["per_class"]) == (two["correct"], two["images"], two["per_class"])
    assert one["facts"].get("frozen_sha256") == two["facts"].get("frozen_sha256")
    assert (tmp_path / "one/manifest.json").read_text() == (tmp_path / "two/manifest.json").read_text()
    for mine, theirs in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert mine.get("loss", 0) == pytest.approx(theirs.get("loss", 0), abs=1e-5)
        assert mine["val_accuracy"] == theirs["val_accuracy"]
    for name, tensor in final_weights(tmp_path / "one").items():
        torch.testing.assert_close(final_weights(tmp_path / "two")[name], tensor, atol=1e-4, rtol=1e-3)


LONGER = ("--mode", "finetune", "--epochs", 12, "--batch-size", 8, "--lr", 0.001)


def wait_for_a_checkpoint(run: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not list(run.glob("checkpoints/step-*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def process_of(rank: int, run: Path) -> int:
    """Return the process id of a rank of the run."""
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if os.fsencode(run) in words and f"RANK={rank}".encode() in environment:
            return int(folder.name)
    raise AssertionError(f"rank {rank} is not there")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the ranks through Linux's /proc")
@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.soak)])
def test_where_one_is_killed_all_start_anew_and_the_weights_come_out_the_same(
    launch: Launch, finish_warm: Callable[..., None], tmp_path: Path, rank: int
) -> None:
    finish_warm("undisturbed", *LONGER, processes=2)
    process = launch("killed", *LONGER, restarts=2)
    wait_for_a_checkpoint(tmp_path / "killed")
    os.kill(process_of(rank, tmp_path / "killed"), signal.SIGKILL)
    finish(process, tmp_path / "killed.err")
    assert "resumed at step" in (tmp_path / "killed.err").read_text()
    assert_same_weights(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.soak
def test_stopped_and_resumed_the_weights_come_out_the_same(
    launch: Launch, finish_warm: Callable[..., None], tmp_path: Path
) -> None:
    finish_warm("undisturbed", *LONGER, processes=2)
    process = launch("stopped", *LONGER)
    wait_for_a_checkpoint(tmp_path / "stopped")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert (tmp_path / "stopped.err").read_text().count("stopped; go on with: cnn-tl train --resume") == 1
    finish(launch("stopped", *LONGER, "--resume"), tmp_path / "stopped.err")
    assert_same_weights(tmp_path / "stopped", tmp_path / "undisturbed")


class Start:
    """A start by torchrun, as the environment tells of it, of a run that is stopped in its second epoch."""

    def __init__(self, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
        self._recipe, self._environment = recipe, monkeypatch

    def __call__(self, launch: str | None, restarts: int = 0, output: Path | None = None) -> list[str]:
        """Return what was noted."""
        if launch is None:
            self._environment.delenv("TORCHELASTIC_RUN_ID", raising=False)
        else:
            self._environment.setenv("TORCHELASTIC_RUN_ID", launch)
        self._environment.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        observer = StopAfter("epoch 2", 8)
        with contextlib.suppress(Stopped):
            train(self._recipe, output, observer=observer)
        return observer.notes


@pytest.fixture
def start(recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    monkeypatch.chdir(tmp_path)
    return Start(recipe("finetune"), monkeypatch)


@pytest.mark.parametrize("output", [Path("run"), None])
def test_another_start_of_the_same_launch_goes_on(start: Start, output: Path | None) -> None:
    """A machine that takes the place of another counts its restarts from 0."""
    start("job 7", output=output)
    assert any("resumed at step" in note for note in start("job 7", output=output))


@pytest.mark.parametrize("first", ["job 7", "none", None])
def test_another_launch_is_refused(start: Start, first: str | None) -> None:
    start(first, output=Path("run"))
    for launch, restarts in [("job 8", 0), ("job 8", 1), ("none", 0), ("", 0), (None, 0)]:
        with pytest.raises(ResourceError, match=r"holds another run|can be resumed"):
            start(launch, restarts, Path("run"))


def test_a_launch_without_a_name_goes_by_the_count(start: Start) -> None:
    start("none", output=Path("run"))
    assert any("resumed at step" in note for note in start("none", 1, Path("run")))


DIVERGING = ("--mode", "finetune", "--epochs", 99, "--batch-size", 8, "--lr", 100, "--set", "train.optimizer=sgd")


@pytest.mark.parametrize(
    "flags",
    [("--set", "train.epochs=0"), ("--bogus",), pytest.param(DIVERGING, marks=pytest.mark.soak)],
    ids=["recipe", "usage", "diverging"],
)
def test_a_mistake_is_told_once(launch: Launch, tmp_path: Path, flags: tuple[object, ...]) -> None:
    process = launch("wrong", *flags)
    process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert (tmp_path / "wrong.err").read_text().count("error: ") == 1


HALF = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
NOWHERE = HALF | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("command", "environment", "code", "line"),
    [
        (["predict", "nosuch", "x.png"], HALF, 4, "error: "),
        (["predict", "nosuch", "x.png"], NOWHERE, 4, "error: "),
        (["train", "--bogus"], HALF, 2, "--bogus"),
        (["train", "DATA"], HALF, 2, "start them by torchrun, or unset these variables for one process"),
        (["train", "DATA"], NOWHERE | {"MASTER_PORT": "abc", "LOCAL_RANK": "0"}, 2, "cannot meet: "),
    ],
    ids=["predict", "predict with a master", "usage", "no master", "no port"],
)
def test_what_a_launcher_has_left_in_the_environment(
    data: Path, tmp_path: Path, command: list[str], environment: dict[str, str], code: int, line: str
) -> None:
    words = [str(data) if word == "DATA" else word for word in command]
    errors = tmp_path / "errors"
    process = Command(words, {"COLUMNS": "200"} | environment, errors=errors)
    assert process.wait(PATIENCE) == code, errors.read_text()
    assert line in errors.read_text()
    assert "Traceback" not in errors.read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_waits_for_the_others_can_be_ended(data: Path, number: signal.Signals) -> None:
    """torch waits for them where Python hears no signal."""
    process = Command(["train", str(data), "--mode", "finetune"], NOWHERE)
    time.sleep(2)  # it waits after half a second
    process.send_signal(number)
    assert process.wait(PATIENCE) in (-number, 128 + number)


@pytest.mark.parametrize("slow", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_the_one_that_speaks_may_be_the_slower_one(tmp_path: Path, slow: int) -> None:
    """torchrun ends all processes as soon as it sees that one has ended, told or not."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import os, sys, time
        from cnn_tl.cli import app
        if os.environ["RANK"] == "{slow}":
            time.sleep(2)
        sys.exit(app.run(["train", "nowhere", "--set", "train.epochs=0"]))
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=_environment())
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1


GROUP = """
import json, os
from pathlib import Path
import torch
from cnn_tl.core.launch import process_group
from cnn_tl.core.errors import BadImageError, CnnTlError

def fail():
    raise BadImageError(None, "first fails")

def threads_of_the_group():
    tasks = Path("/proc/self/task")
    return [name for t in tasks.iterdir() if "gloo" in (name := (t / "comm").read_text())] if tasks.exists() else None

with process_group() as world:
    told = []
    try:
        with world.together():
            if world.rank == 1:
                raise BadImageError(None, "second fails")
    except CnnTlError as error:
        told.append(str(error))
    try:
        world.first(fail)
    except CnnTlError as error:
        told.append(str(error))
    total = int(world.sum(torch.tensor(world.rank + 1)))
    steps = list(world.in_step(iter([world.rank, 5]), lambda: None))
    told += [total, world.gather(world.rank), steps, world.first(lambda: world.rank)]
    model = world.parallel(torch.nn.Linear(2, 2))
    model(torch.ones(1, 2)).sum().backward()
    during = threads_of_the_group()
    del model
line = json.dumps({"told": told, "during": during, "after": threads_of_the_group()})
os.write(1, f"{line}\\n".encode())  # in one piece: both write to one pipe
"""


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return what the two processes of a group say of it; both have ended well."""
    script = tmp_path_factory.mktemp("group") / "script.py"
    script.write_text(GROUP)
    meeting = _environment() | _meeting() | {"WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, script],
            env=meeting | {"RANK": rank, "LOCAL_RANK": rank}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    said = [process.communicate(timeout=PATIENCE) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    return [json.loads(out) for out, _ in said]


def test_an_error_of_one_is_raised_in_all(ranks: list[dict[str, Any]]) -> None:
    expected = [["second fails", "first fails", 3, [0, 1], [rank, 5], 0] for rank in (0, 1)]
    assert [said["told"] for said in ranks] == expected


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds threads through Linux's /proc")
def test_no_thread_of_the_group_is_left(ranks: list[dict[str, Any]]) -> None:
    """One that asks for the GIL while the interpreter ends takes the process down: exit code -6 after all was well."""
    assert len(ranks) == 2
    for said in ranks:
        assert said["during"]
        assert said["after"] == []

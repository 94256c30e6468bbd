"""Processes that decode images show in nothing but the time, and are gone when who needs them is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from child_processes import decoders_of, wait_until_gone
from PIL import Image

from cnn_tl.core.errors import BadImageError, DataError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.decoding.image import ImageLimits
from cnn_tl.data.loader import Batch, in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.data.reading import ahead, pool, process
from cnn_tl.data.reading.ahead import decoding
from cnn_tl.data.reading.jobs import ImageFile, Job, PlainPixels, RandomView, SourceRow
from cnn_tl.data.reading.shared_memory import SharedMemory
from cnn_tl.data.views.augment import Augmentation

SPEC = Preprocessing(40, 48, "bicubic", 0.9, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SETTINGS = Augmentation(0.3, flip=True, color=0.2, policy="randaugment", magnitude=9, ops=2, erasing=0.5)
IMAGES = 70

DECODE = f"""
import sys
from pathlib import Path
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.reading import ahead
from cnn_tl.data.reading.jobs import ImageFile, PlainPixels
ahead.PROCESSES_FROM, ahead.IMAGES_EACH = 1, 0
print("begins", flush=True)
spec = {SPEC!r}
files = sorted(Path(sys.argv[1]).iterdir()) * 1000
count = 0
"""
"""The start of a script that is not guarded by `if __name__ == "__main__"`."""


@pytest.fixture(autouse=True)
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let processes decode even few images, and see that none is left."""
    monkeypatch.setattr(ahead, "PROCESSES_FROM", 1)
    monkeypatch.setattr(ahead, "IMAGES_EACH", 0)
    yield
    assert not pool._shared.pools
    assert [thread.name for thread in threading.enumerate() if thread.name == "decode"] == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of many sizes, some of them broken, refused or blank."""
    folder, chance = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(IMAGES):
        height, width = (int(side) for side in chance.integers(9, 90, 2))
        image = Image.fromarray(chance.integers(0, 256, (height, width, 3), np.uint8))
        image.save(folder / f"{number:02}.{('png', 'jpg', 'bmp')[number % 3]}")
    (folder / "03.png").write_bytes((folder / "03.png").read_bytes()[:200])
    (folder / "04.jpg").write_bytes(b"no image")
    Image.new("RGB", (30, 30), "white").save(folder / "06.png")
    Image.new("RGBA", (30, 30), (9, 9, 9, 0)).save(folder / "69.png")
    return folder


def plain(path: Path) -> Job:
    return PlainPixels(ImageFile(path), SPEC)


def source(path: Path) -> Job:
    return SourceRow(ImageFile(path), SPEC, 64)


def view(path: Path) -> Job:
    return RandomView(ImageFile(path), SPEC, SETTINGS, seed=int(path.stem))


def mixed(path: Path) -> Job:
    return (plain, source, view)[int(path.stem) % 3](path)


def decoded(files: Sequence[Path], job_of: Callable[[Path], Job], workers: int, size: int = 9) -> list[Batch[Path]]:
    with decoding(in_groups(files, size), job_of, workers=workers, images=len(files)) as batches:
        return list(batches)


def by_threads(files: Sequence[Path], job_of: Callable[[Path], Job], size: int = 9) -> list[Batch[Path]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahead, "PROCESSES_FROM", 99)
        return decoded(files, job_of, 2, size)


def assert_same(found: list[Batch[Path]], expected: list[Batch[Path]]) -> None:
    assert [one.items for one in found] == [one.items for one in expected]
    assert [one.blank for one in found] == [one.blank for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert [(item, str(error), error.reason) for item, error in one.failures] == [
            (item, str(error), error.reason) for item, error in other.failures
        ]
        for row, same in zip(one.rows, other.rows, strict=True):
            np.testing.assert_array_equal(row, same)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("job_of", [plain, source, view, mixed])
def test_processes_decode_as_threads_do(folder: Path, job_of: Callable[[Path], Job], workers: int) -> None:
    files = sorted(folder.iterdir())
    expected = by_threads(files, job_of)
    assert_same(decoded(files, job_of, workers), expected)
    assert len([item for batch in expected for item, _ in batch.failures]) == 2
    if job_of is plain:
        assert [(path.name, kind) for batch in expected for path, kind in batch.blank] == [
            ("06.png", "constant"),
            ("69.png", "transparent"),
        ]
        assert decoded(files, job_of, workers)[0].pixels.shape == (7, 40, 48, 3)


@pytest.mark.parametrize("size", [64, 9000, 100_000])
def test_what_does_not_fit_into_shared_memory_comes_by_the_pipe(
    folder: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SHARED_BYTES", size)
    files = sorted(folder.iterdir())
    assert_same(decoded(files, mixed, 2), by_threads(files, mixed))


def test_without_shared_memory_threads_decode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> SharedMemory:
        raise OSError

    monkeypatch.setattr(pool, "SharedMemory", refuse)
    files = sorted(folder.iterdir())
    assert_same(decoded(files, plain, 2), by_threads(files, plain))


def test_where_processes_cannot_start_threads_decode(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(folder / "no such program"))
    files = sorted(folder.iterdir())
    assert_same(decoded(files, plain, 2), by_threads(files, plain))


@pytest.mark.parametrize("program", ["print('welcome to this machine')", "raise SystemExit(3)", "print(end='N.')"])
def test_where_processes_do_not_answer_threads_decode(
    folder: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(process, "_PROGRAM", program)
    files = sorted(folder.iterdir())
    assert_same(decoded(files, plain, 2), by_threads(files, plain))


def test_few_images_or_cores_are_left_to_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert [ahead.by_processes(workers, 10**6) for workers in (0, 1, 2, 4, 8, 16)] == [False] * 4 + [True] * 2
    assert not ahead.by_processes(16, 0)
    assert not ahead.by_processes(16, 100)
    assert ahead.by_processes(16, 2700)
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert not ahead.by_processes(16, 10**6), "sys.executable is an application then, not an interpreter"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_changed_file_ends_the_iteration_after_what_was_before(folder: Path, workers: int) -> None:
    files = sorted(folder.iterdir())

    def job_of(path: Path) -> Job:
        size = path.stat().st_size + (path.name == "20.bmp")
        return PlainPixels(ImageFile(path, ImageRecord(path.name, 0, "train", size, path.stat().st_mtime_ns, "")), SPEC)

    with decoding(in_groups(files, 9), job_of, workers=workers, images=len(files)) as batches:
        assert len(next(batches).items) == 7
        next(batches)
        with pytest.raises(DataError, match=r"20\.bmp changed since the run began"):
            next(batches)


def test_a_mistake_of_ours_ends_the_iteration_with_its_own_traceback(folder: Path) -> None:
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute") as caught:
        decoded(sorted(folder.iterdir()), lambda path: RandomView(ImageFile(path), SPEC, None, 1), 2)  # type: ignore[arg-type]
    assert "run" in [entry.name for entry in caught.traceback]


def test_whoever_stops_early_leaves_nothing_taken(folder: Path) -> None:
    files = sorted(folder.iterdir())
    with pool.pools_kept():
        for _ in range(3):
            with decoding(in_groups(files, 9), plain, workers=2, images=len(files)) as batches:
                next(batches)
        assert_same(decoded(files, plain, 2), by_threads(files, plain))
        (kept,) = pool._shared.pools.values()
        ends = time.monotonic() + 20
        while kept._memory._taken and time.monotonic() < ends:  # a process may still be writing
            time.sleep(0.01)
        assert kept._memory._taken == []


def test_two_may_decode_at_once_and_one_of_them_may_wait(folder: Path) -> None:
    files = sorted(folder.iterdir())
    expected = by_threads(files, plain)
    with (
        decoding(in_groups(files, 9), plain, workers=2, images=len(files)) as first,
        decoding(in_groups(files, 9), plain, workers=2, images=len(files)) as second,
    ):
        found = [next(first)]
        assert_same(list(second), expected)
        assert_same(found + list(first), expected)


def pids() -> list[int]:
    return [process._process.pid for kept in pool._shared.pools.values() for process in kept._processes]


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("killed", [1, 2])
def test_a_thread_does_the_work_of_a_process_that_was_killed(folder: Path, killed: int) -> None:
    files = sorted(folder.iterdir()) * 6
    with pool.pools_kept():
        decoded(files[:9], plain, 2)
        wait_until(lambda: len(pids()) == 2)
        with decoding(in_groups(files, 9), plain, workers=2, images=len(files)) as batches:
            found = [next(batches)]
            for pid in pids()[:killed]:
                os.kill(pid, signal.SIGKILL)
            found += batches
        assert_same(found, by_threads(files, plain))
        assert_same(decoded(files, plain, 2), found)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_signal_to_all_processes_does_not_end_the_ones_that_decode(folder: Path) -> None:
    files = sorted(folder.iterdir())
    with pool.pools_kept():
        decoded(files, plain, 2)
        wait_until(lambda: len(pids()) == 2)
        for number in (signal.SIGINT, signal.SIGTERM):
            for pid in pids():
                os.kill(pid, number)
        found = decoded(files, plain, 2)
        assert all(process._process.poll() is None for one in pool._shared.pools.values() for process in one._processes)
    assert_same(found, by_threads(files, plain))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_fork_leaves_the_processes_of_its_parent_alone(folder: Path) -> None:
    files = sorted(folder.iterdir())
    with pool.pools_kept():
        decoded(files, plain, 2)
        child = os.fork()
        if not child:
            code = 1
            try:
                batch = decoded(files[:9], plain, 2)[0]
                code = 0 if len(batch.items) == 7 and not pool._shared.pools else 2
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert_same(decoded(files, plain, 2), by_threads(files, plain))


def in_dev_shm() -> list[str]:
    return sorted(path.name for path in Path("/dev/shm").iterdir() if "cnn" in path.name)


START = """
import os
for batch in ahead.decoded_batches(files, lambda path: PlainPixels(ImageFile(path), spec), batch_size=8, workers=2,
                                    images=len(files)):
    count += 1
    if count == 5:
        print("decodes", flush=True)
"""


@pytest.fixture
def script(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A script that decodes for minutes, in a process group of its own, once it has begun to."""
    command = [sys.executable, "-c", DECODE + START, str(folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["begins\n", "decodes\n"]
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc and /dev/shm")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_left_of_a_killed_program(script: subprocess.Popen[str], number: int) -> None:
    workers = decoders_of(script.pid)
    assert len(workers) == 2
    os.killpg(script.pid, number)
    out, error = script.communicate(timeout=60)
    wait_until_gone(workers)
    assert out == ""
    assert error.count("Traceback") == (number == signal.SIGINT)  # the script's own
    assert error.count("KeyboardInterrupt") == (number == signal.SIGINT)
    assert in_dev_shm() == []


def test_a_script_needs_no_guard(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "pickle.py").write_text("raise SystemExit('not the module of that name')")
    script = tmp_path / "mine.py"
    script.write_text(
        DECODE + "files = files[:70]\n"
        "for batch in ahead.decoded_batches(files, lambda path: PlainPixels(ImageFile(path), spec), batch_size=8,\n"
        "                                    workers=2, images=70):\n"
        "    count += len(batch.items)\n"
        "print(count)\n"
    )
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, cwd=elsewhere, check=True)
    assert (done.stdout, done.stderr) == (f"begins\n{IMAGES - 2}\n", "")


def test_a_script_may_end_before_it_has_read_all(folder: Path) -> None:
    code = DECODE + (
        "batches = ahead.decoded_batches(files, lambda path: PlainPixels(ImageFile(path), spec), batch_size=8,\n"
        "                                 workers=2, images=len(files))\n"
        "print(len(next(batches).items))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout, done.stderr) == ("begins\n6\n", "")


def test_a_process_loads_nothing_heavy() -> None:
    code = "import sys, cnn_tl.data.reading.worker; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "cnn_tl.data.views.transforms" in loaded
    assert not loaded & {"torch", "timm", "sklearn", "scipy", "pydantic", "rich", "typer", "yaml", "cnn_tl.recipe"}


def test_shared_memory_is_taken_from_the_start() -> None:
    memory = SharedMemory(1000)
    assert [memory.take(size) for size in (100, 1, 300, 512)] == [0, 128, 192, None]
    memory.free(128)
    assert memory.take(65) == 512
    assert memory.take(0) == 128
    memory.bytes[128:192] = 7
    memory.release_pages()
    assert memory.bytes[128] == 7, "still taken"
    for start in (0, 192, 512, 128):
        memory.free(start)
    memory.release_pages()
    assert memory.take(1000) is None, "rounded up"
    assert memory.take(960) == 0
    memory.close()


def test_limits_reach_the_processes(folder: Path) -> None:
    spec = Preprocessing(40, 48, "bicubic", 0.9, "center", (0.5,) * 3, (0.5,) * 3, max_pixels=900, min_side=20)
    files = sorted(folder.iterdir())
    batches = decoded(files, lambda path: PlainPixels(ImageFile(path), spec), 2)
    reasons = [error for batch in batches for _, error in batch.failures]
    assert all(isinstance(error, BadImageError) for error in reasons)
    assert sum("(data.max_pixels)" in error.reason for error in reasons) > 20
    assert sum("(data.min_side)" in error.reason for error in reasons) > 5
    assert ImageLimits().max_pixels > 900

"""Several processes on one cache, and processes that die: `kill -9` loses one shard at most."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnn_tl
from cnn_tl.cache import housekeeping

Fill = Callable[..., list[bytes]]
Key = Callable[[object], bytes]
Row = Callable[..., Any]

WIDTH = 64

BEGIN = f"""
    import hashlib, sys, time
    from pathlib import Path
    import numpy as np
    from cnn_tl.cache import housekeeping, writer
    from cnn_tl.cache.store import FeatureCache

    WIDTH = {WIDTH}
    writer.SHARD_ROWS = 100

    def key_of(name):
        return hashlib.sha256(str(name).encode()).digest()

    def row_of(name):
        seed = int.from_bytes(key_of(name)[:8], "big")
        return np.random.default_rng(seed).standard_normal(WIDTH).astype(np.float32)

    def fail(text):
        sys.exit(text)

    root = Path(sys.argv[1])
    cache = FeatureCache(root, warn=fail, note=fail)
    space = cache.space({{"facts": "plain"}}, shape=(WIDTH,))
"""


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(desk: Any) -> Iterator[Start]:
    """Start processes on the cache; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(code: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", textwrap.dedent(BEGIN) + textwrap.dedent(code), desk.root, *arguments]
        settings = {"PYTHONPATH": str(Path(cnn_tl.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, text=True, env=os.environ | settings
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


ENDLESS = """
    with space.writer() as rows:
        for name in range(10**9):
            rows.add(key_of(name), row_of(name))
            print(name, flush=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_kill(desk: Any, start: Start, key: Key, true_rows: Row) -> None:
    chance = random.Random(0)
    kept = 0
    for _ in range(8):
        process = start(ENDLESS)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        added = int(process.stdout.read().splitlines()[-1]) + 1
        process.wait()
        space = desk.space(width=WIDTH)
        assert len(space) >= max(kept, added - 100)
        kept = len(space)
        keys = [key(name) for name in range(kept)]
        rows, lacking = space.gather(keys)
        assert lacking == []
        np.testing.assert_array_equal(rows, true_rows(range(kept), WIDTH))
    assert desk.warnings == []
    housekeeping.clear(desk.root)
    assert list(desk.root.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("moment", ["save_file", "files._fsync"])
def test_kill_in_the_middle_of_a_write(
    desk: Any, start: Start, fill: Fill, key: Key, true_rows: Row, moment: str
) -> None:
    """Between the first byte of a file and its name; what is left of it disturbs nobody, and `clear` knows it."""
    fill(desk.space(width=WIDTH), range(50), WIDTH)
    code = f"""
        from unittest import mock
        import os, signal
        from cnn_tl.cache import shard
        with mock.patch("cnn_tl.cache.shard.{moment}", lambda *rest: os.kill(os.getpid(), signal.SIGKILL)):
            with space.writer() as rows:
                for name in range(50, 100):
                    rows.add(key_of(name), row_of(name))
    """
    assert start(code).wait() == -9
    space = desk.space(width=WIDTH)
    assert space.missing([key(name) for name in range(100)]) == list(range(50, 100))
    assert len([path for path in space.folder.iterdir() if path.suffix == ".tmp"]) == 1
    fill(space, range(50, 100), WIDTH)
    rows, _ = desk.space(width=WIDTH).gather([key(name) for name in range(100)])
    np.testing.assert_array_equal(rows, true_rows(range(100), WIDTH))
    assert housekeeping.info(desk.root).leftover_nbytes > 0 or moment == "save_file"
    housekeeping.clear(desk.root)
    assert list(desk.root.iterdir()) == []


def test_writers_at_the_same_time(desk: Any, start: Start, key: Key, true_rows: Row) -> None:
    """They overlap by half; every row is there at the end, also where both wrote it."""
    code = """
        first = int(sys.argv[2])
        with space.writer() as rows:
            for name in range(first, first + 1000):
                rows.add(key_of(name), row_of(name))
    """
    processes = [start(code, first) for first in (0, 500, 1000)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    space = desk.space(width=WIDTH)
    assert len(space) == 2000
    rows, lacking = space.gather([key(name) for name in range(2000)])
    assert lacking == []
    np.testing.assert_array_equal(rows, true_rows(range(2000), WIDTH))


def test_pruners_at_work(desk: Any, start: Start, key: Key, row: Row) -> None:
    """Two writers, a reader and somebody who empties the cache all the time: no error, no warning, no wrong row."""
    write = """
        space = FeatureCache(root, warn=fail).space({"facts": "plain"}, shape=(WIDTH,))
        ends = time.monotonic() + 2
        number = int(sys.argv[2])
        while time.monotonic() < ends:
            number += 1
            with space.writer() as rows:
                for name in range(300 * (number % 7), 300 * (number % 7) + 300):
                    rows.add(key_of(name), row_of(name))
    """
    clear = """
        ends = time.monotonic() + 2
        number = 0
        while time.monotonic() < ends:
            number += 1
            housekeeping.clear(root) if number % 3 else housekeeping.prune(root, 100_000)
            housekeeping.info(root)
            time.sleep(0.03)
    """
    processes = [start(write, 0), start(write, 3), start(clear)]
    keys = [key(name) for name in range(2100)]
    truth = np.stack([row(name, WIDTH) for name in range(2100)])
    seen = 0
    while any(process.poll() is None for process in processes):
        space = desk.space(width=WIDTH)
        rows, lacking = space.gather(keys)
        whole = np.setdiff1d(np.arange(2100), lacking)
        np.testing.assert_array_equal(rows[whole], truth[whole])
        seen += len(whole)
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert seen > 0
    assert desk.warnings + desk.notes == []


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot lock a folder")
@pytest.mark.parametrize("what", ["read", "written", "network"])
def test_what_a_live_process_uses_stays(desk: Any, start: Start, fill: Fill, key: Key, what: str) -> None:
    """The budget of one run is not met with what another one works with; when that has ended it goes as usual."""
    network = desk.root / "networks" / ("a" * 32)
    network.mkdir(parents=True)
    (network / "backbone.safetensors").write_bytes(bytes(100_000))
    if what == "read":
        fill(desk.space(width=WIDTH), range(300), WIDTH)
    use = {
        "read": "assert not space.missing([key_of(name) for name in range(300)])",
        "written": "with space.writer() as rows: [rows.add(key_of(name), row_of(name)) for name in range(300)]",
        "network": f"cache.keep(Path({str(network)!r}))",
    }
    code = f"""
        {use[what]}
        print("ready", flush=True)
        time.sleep(600)
    """
    process = start(code)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    theirs = [*desk.shards(), network]
    for path in theirs:
        os.utime(path, (0, 0))
    if what != "network":
        shutil.rmtree(network)
    total = housekeeping.info(desk.root).nbytes
    fill(desk.space("other", width=WIDTH, budget_bytes=total + 50_000), range(300), WIDTH)
    assert housekeeping.info(desk.root).nbytes == total
    assert len(desk.notes) == 1
    process.kill()
    process.wait()
    fill(desk.space("other", width=WIDTH, budget_bytes=total + 50_000), range(300), WIDTH)
    assert desk.space("other", width=WIDTH).missing([key(name) for name in range(300)]) == []
    assert not all(path.exists() for path in theirs)
    assert len(desk.notes) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_is_flat(desk: Any, start: Start, fill: Fill) -> None:
    """Reading one row of a large space, or all of it into one array piece by piece, takes no more than the pieces."""
    width = 16_384
    fill(desk.space(width=width), range(3000), width)  # some 200 MB, three shards
    assert len(desk.shards()) == 3
    code = f"""
        def peak():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

        space = cache.space({{"facts": "plain"}}, shape=({width},))
        space.read(key_of("absent"))
        before = peak()
        assert space.read(key_of(1234)) is not None
        one = peak() - before
        for first in range(0, 3000, 50):
            rows, lacking = space.gather([key_of(name) for name in range(first, first + 50)])
            assert not lacking
        print(one, peak() - before)
    """
    process = start(code)
    one, all_in_pieces = map(float, process.communicate()[0].split())
    assert process.returncode == 0
    assert one < 10
    assert all_in_pieces < 60


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_file_is_held_open(desk: Any, fill: Fill) -> None:
    for name in range(30):
        fill(desk.space(), [name])
    space = desk.space()
    before = len(list(Path("/proc/self/fd").iterdir()))
    space.gather(fill(space, range(30)))
    assert len(list(Path("/proc/self/fd").iterdir())) == before

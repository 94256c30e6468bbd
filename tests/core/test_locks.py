"""Locks between processes, on files and on folders."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cnn_tl
from cnn_tl.core.locks import try_lock

fcntl = pytest.importorskip("fcntl")

HOLD = (
    "import os, sys\nfrom cnn_tl.core.locks import try_lock\n"
    "descriptor = os.open(sys.argv[1], os.O_RDONLY)\n"
    "print(try_lock(descriptor, shared=sys.argv[2] == 'shared'), flush=True)\nsys.stdin.read()\n"
)

Hold = Callable[[Path, str], "subprocess.Popen[str]"]


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Start processes that lock a path; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(path: Path, kind: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(Path(cnn_tl.__file__).parents[1])},
        )  # fmt: skip
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(params=["file", "read-only folder"])
def descriptor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, int]]:
    path = tmp_path / "locked"
    if request.param == "file":
        path.touch()
    else:
        path.mkdir(0o500)
    number = os.open(path, os.O_RDONLY)
    yield path, number
    os.close(number)


def test_an_exclusive_lock_ends_with_its_process(descriptor: tuple[Path, int], hold: Hold) -> None:
    path, number = descriptor
    holder = hold(path, "exclusive")
    assert try_lock(number) is False
    assert try_lock(number, shared=True) is False
    holder.kill()
    holder.wait()
    assert try_lock(number) is True
    assert list(path.parent.iterdir()) == [path], "it leaves no trace"


def test_shared_locks_exclude_only_an_exclusive_one(descriptor: tuple[Path, int], hold: Hold) -> None:
    path, number = descriptor
    holder = hold(path, "shared")
    assert try_lock(number, shared=True) is True
    assert try_lock(number) is False
    holder.kill()
    holder.wait()
    assert try_lock(number) is True


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks(descriptor: tuple[Path, int], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert try_lock(descriptor[1]) is None

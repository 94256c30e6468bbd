"""Real processes that need not load torch: Python's fork server has loaded it, and forks one for each command.

They can be killed, stopped and signalled as others can. What they lack is the start of an interpreter, so tests of how
a command starts up do without them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, get_context
from pathlib import Path

import pytest

NOWHERE = Path(os.devnull)

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["warm_imports"])


class Command:
    """`cnn-tl WORDS` in a process group of its own; has what is used of `subprocess.Popen`.

    Args:
        environment: what differs from this process's own.
        errors: the file that takes its stderr.
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], errors: Path = NOWHERE) -> None:
        _serve()
        whole = dict(os.environ) | dict(environment)
        if errors != NOWHERE:
            errors.write_bytes(b"")  # there to be read before the process has opened it
        self._process = _CONTEXT.Process(target=_run, args=(list(words), whole, errors, Path.cwd()))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._wait_for_its_group()

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("cnn-tl", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait_for_its_group(self) -> None:
        while self.poll() is None and os.getpgid(self.pid) != self.pid:
            time.sleep(0.001)


def cold(words: Sequence[str], environment: Mapping[str, str], errors: Path = NOWHERE) -> subprocess.Popen[bytes]:
    """Start the same command by a new interpreter, which can be killed while it loads."""
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    whole = dict(os.environ) | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | dict(environment)
    with errors.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "cnn_tl", *words],
            env=whole, stdout=subprocess.DEVNULL, stderr=stream, start_new_session=True,
        )  # fmt: skip


def _serve() -> None:
    """Start the fork server, unless it runs: with one thread, and with the folder of this file on its path."""
    folders = [
        str(Path(__file__).parent),
        *filter(None, [os.environ.get("PYTHONPATH")]),
        str(Path(__file__).parents[1]),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(folders))
        patch.setenv("OMP_NUM_THREADS", "1")
        forkserver.ensure_running()


def _run(words: list[str], environment: dict[str, str], errors: Path, folder: Path) -> None:
    """Do what `python -m cnn_tl WORDS` does, with this environment."""
    os.setsid()
    for number, path in ((1, NOWHERE), (2, errors)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["cnn-tl", *words]
    from cnn_tl.core import signals

    signals.raise_on_signals()
    from cnn_tl.cli.app import main

    main()

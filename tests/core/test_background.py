"""A call in a thread gives its result or its error, and nobody imports half a package twice."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cnn_tl.core import background, imports
from cnn_tl.core.background import Background


def test_the_result_comes_when_it_is_asked_for() -> None:
    may_go_on = threading.Event()
    work = Background(lambda: (may_go_on.wait(10), 3)[1], "test")
    assert background.is_busy()
    may_go_on.set()
    assert [work.result(), work.result()] == [3, 3]
    assert not background.is_busy()


def test_the_error_too() -> None:
    def fails() -> None:
        raise ValueError("no")

    work = Background(fails, "test")
    work.wait()
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            work.result()
    assert not background.is_busy()


def test_an_error_of_the_import_reaches_who_needs_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def fails_once() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ImportError("half of it is there", name="torch")

    monkeypatch.setattr(imports, "_import_all", fails_once)
    imports.import_in_background(lambda: None)
    until = time.monotonic() + 10
    while background.is_busy() and time.monotonic() < until:
        time.sleep(0.01)
    with pytest.raises(ImportError, match="half of it"):
        imports.import_timm()
    assert calls == [1]
    imports.import_timm()
    assert calls == [1, 1]


def test_what_needs_the_package_waits_for_its_import(monkeypatch: pytest.MonkeyPatch) -> None:
    has_begun, may_end = threading.Event(), threading.Event()
    monkeypatch.setattr(imports, "_import_all", lambda: (has_begun.set(), may_end.wait(10)))
    imports.import_in_background(lambda: None)
    assert has_begun.wait(10)
    waiting = Background(imports.wait_for_import, "test")
    waiting._thread.join(0.05)
    assert waiting._thread.is_alive()
    may_end.set()
    waiting.result()


def test_an_error_need_not_wait_for_torch(tmp_path: Path) -> None:
    """A command that fails while torch is being imported has said why, and ends at once."""
    code = """if True:
        import sys, time
        from cnn_tl.cli import app
        from cnn_tl.core import imports
        imports._import_all = lambda: time.sleep(60)
        sys.argv = ["cnn-tl", "train", sys.argv[1], "--weights", "none.pth", "--output", "run"]
        app.main()
    """
    (tmp_path / "empty").mkdir()
    command = [sys.executable, "-c", code, str(tmp_path / "empty")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1

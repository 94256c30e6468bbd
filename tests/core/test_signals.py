"""Ctrl-C and SIGTERM before, while and after a command works. Each test is a process that signals itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import cnn_tl
from cnn_tl.core import signals
from cnn_tl.core.errors import Stopped

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows sends no such signals")

NUMBERS = [signal.SIGINT, signal.SIGTERM]

HELPERS = """
import os, runpy, signal, sys, time

def interrupted():
    os.kill(os.getpid(), int(sys.argv[1]))

def command(*words):
    number, sys.argv[1:] = sys.argv[1], words
    global interrupted
    interrupted = lambda: os.kill(os.getpid(), int(number))
    runpy.run_module("cnn_tl", run_name="__main__")

class Loading:
    def __init__(self, name, act):
        self.name, self.act = name, act
        sys.meta_path.insert(0, self)
    def find_spec(self, name, *_):
        if name == self.name:
            sys.meta_path.remove(self)
            self.act()

"""


def heed_interruptions() -> None:
    """Take back what a shell tells its background jobs, among which these tests may be: to ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def ended(code: str, number: int, **environment: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(cnn_tl.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", HELPERS + textwrap.dedent(code), str(int(number))],
        capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"PYTHONPATH": source} | environment, preexec_fn=heed_interruptions,
    )  # fmt: skip


def assert_one_line(done: subprocess.CompletedProcess[str], number: int) -> None:
    assert (done.returncode, done.stderr) == (128 + number, "error: interrupted\n"), done.stderr


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("module", ["typer", "yaml"])
def test_while_something_is_loaded(module: str, number: int) -> None:
    code = f"Loading({module!r}, lambda: interrupted()); command('recipes', 'list')"
    assert_one_line(ended(code, number), number)


@pytest.mark.parametrize("made_of_it", ["raise ImportError('numpy failed')", "time.sleep(30)", "sys.exit(0)"])
def test_an_interruption_that_a_library_swallows(made_of_it: str) -> None:
    code = f"""
    from cnn_tl.core import signals
    signals.SWALLOWED_SECONDS = 0.1
    def act():
        try:
            interrupted()
        except:
            {made_of_it}
    Loading("yaml", act)
    command("recipes", "show", "freeze")
    """
    assert_one_line(ended(code, signal.SIGINT), signal.SIGINT)


def test_an_interruption_amid_an_exec_is_no_death_by_a_signal(tmp_path: Path) -> None:
    """Only under `python -m`, so the signal comes from what Python loads before that."""
    raised = "os.kill(os.getpid(), signal.SIGINT)"
    (tmp_path / "sitecustomize.py").write_text(f'{HELPERS}Loading("yaml", lambda: exec("{raised}"))')
    source = str(Path(cnn_tl.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-m", "cnn_tl", "recipes", "list"], capture_output=True, text=True, check=False, timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), source])}, preexec_fn=heed_interruptions,
    )  # fmt: skip
    assert_one_line(done, signal.SIGINT)


def test_a_callback_that_cannot_raise() -> None:
    code = """
    class Dying:
        def __del__(self):
            interrupted()
    def act():
        Dying()
        time.sleep(30)
    Loading("yaml", act)
    command("recipes", "show", "freeze")
    """
    assert_one_line(ended(code, signal.SIGINT), signal.SIGINT)


@pytest.mark.parametrize("number", NUMBERS)
def test_when_all_is_said(number: int) -> None:
    """At the interpreter's own end threads are waited for, and a traceback would come from there."""
    code = """
    import threading
    def late():
        threading.main_thread().join()
        time.sleep(0.2)
        interrupted()
        time.sleep(30)
    threading.Thread(target=late).start()
    command("--version")
    """
    done = ended(code, number)
    assert_one_line(done, number)
    assert done.stdout.startswith("cnn-tl ")


def test_what_is_ignored_stays_so_and_a_launcher_does_it_its_own_way() -> None:
    code = "Loading('yaml', lambda: interrupted()); command('recipes', 'list')"
    assert ended(f"signal.signal(signal.SIGINT, signal.SIG_IGN); {code}", signal.SIGINT).returncode == 0
    assert ended(code, signal.SIGTERM, TORCHELASTIC_RUN_ID="x").returncode == -signal.SIGTERM


def test_a_signal_is_remembered_and_the_old_handler_returns() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with signals.stop_on_signals() as request:
        assert not request
        request.raise_if_asked("nothing yet")
        os.kill(os.getpid(), signal.SIGTERM)
        assert request
        with pytest.raises(Stopped, match="go on with this") as stopped:
            request.raise_if_asked("go on with this")
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_second_signal_ends_the_process() -> None:
    code = (
        "import os, signal, time\nfrom cnn_tl.core import signals\n"
        "signals.raise_on_signals()\n"
        "with signals.stop_on_signals():\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(30)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 130


def test_in_a_notebook_the_second_signal_interrupts_and_the_session_lives_on() -> None:
    """Pressing stop twice must not cost all the variables of a session."""
    before = signal.getsignal(signal.SIGINT)
    with signals.stop_on_signals() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before == signal.default_int_handler

"""Ctrl-C and SIGTERM end a command with one line, from its first moment to its last.

Nothing of weight is imported here: this is at work before typer, rich and torch are, whose loading takes seconds. While
a run trains, `core.device.stop_on_signals` takes its place. It is for programs, not for a library.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

LINE = "interrupted"

SWALLOWED_SECONDS = 3.0
"""How long an interruption may take to come through. Now and then a library's `except:` swallows it while it loads."""

_arrived: list[int] = []


def raise_on_signals() -> None:
    """Let the first SIGINT or SIGTERM raise `KeyboardInterrupt`; the second one ends the process at once.

    What is ignored (`nohup`, `&` in a script) stays so. A launcher passes on what the terminal has sent already, and
    ends its processes by SIGTERM; those are left as they are.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return
    sys.unraisablehook = _leave_or_show
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _raise)


@contextmanager
def deadly() -> Iterator[None]:
    """Let either signal kill the process inside the body, which waits where Python does not get to hear of it."""
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, handler in before.items():
        if handler not in (signal.SIG_IGN, None):
            signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)


def leave_on_signals() -> None:
    """Let either signal end the process at once from here on: there is nothing left to do but to stop."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _raise:
            signal.signal(number, _leave)


def is_ours(handler: object) -> bool:
    """Say whether a signal's handler is that of our own program, rather than of whoever uses us as a library."""
    return handler in (_raise, _leave)


def arrived() -> int | None:
    """Return the number of the signal that has come; None: none has."""
    return _arrived[0] if _arrived else None


def leave(number: int) -> NoReturn:
    """Print the line, and end the process without another word."""
    os.write(2, f"error: {LINE}\n".encode())
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    if _arrived:
        leave(_arrived[0])
    _arrived.append(number)
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.signal(signal.SIGALRM, _raise)
        signal.setitimer(signal.ITIMER_REAL, SWALLOWED_SECONDS)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    leave(number)


def _leave_or_show(unraisable: sys.UnraisableHookArgs) -> None:
    """Do not let a callback swallow an interruption: Python would show its traceback and go on."""
    if _arrived and issubclass(unraisable.exc_type, KeyboardInterrupt):
        leave(_arrived[0])
    sys.__unraisablehook__(unraisable)

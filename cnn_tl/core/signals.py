"""SIGINT and SIGTERM: a command ends with one line, a run ends at the next step with a checkpoint.

`raise_on_signals` covers a command from its start to its end; it is for programs, not for libraries. While a run
trains, `stop_on_signals` takes over. This module is imported before typer, rich and torch, which take seconds to load,
so it must stay cheap to import.
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
"""How long a KeyboardInterrupt may take to reach `main`. Now and then a bare `except:` in a library swallows it."""

_arrived: list[int] = []


def raise_on_signals() -> None:
    """Let the first SIGINT or SIGTERM raise `KeyboardInterrupt`; the second one ends the process at once.

    An ignored signal (`nohup`, `&` in a script) stays ignored. Under torchrun nothing changes: it passes on signals
    that the terminal has already sent, and ends its processes with SIGTERM.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return
    sys.unraisablehook = _exit_or_show
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _raise)


@contextmanager
def default_actions() -> Iterator[None]:
    """Let either signal kill the process inside the block, which waits in C code that runs no Python handlers."""
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


def exit_on_signals() -> None:
    """Let either signal end the process at once from now on: the command has finished its work."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is _raise:
            signal.signal(number, _exit)


def is_ours(handler: object) -> bool:
    """Return whether a signal handler was installed by this module, not by a program that uses cnn-tl as a library."""
    return handler in (_raise, _exit)


def arrived() -> int | None:
    """Return the number of the signal that has arrived; None: none has."""
    return _arrived[0] if _arrived else None


def exit_now(number: int) -> NoReturn:
    """Print `LINE` and end the process at once."""
    os.write(2, f"error: {LINE}\n".encode())
    os._exit(128 + number)


def _raise(number: int, frame: FrameType | None) -> None:
    if _arrived:
        exit_now(_arrived[0])
    _arrived.append(number)
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.signal(signal.SIGALRM, _raise)
        signal.setitimer(signal.ITIMER_REAL, SWALLOWED_SECONDS)
    raise KeyboardInterrupt


def _exit(number: int, frame: FrameType | None) -> None:
    exit_now(number)


def _exit_or_show(unraisable: sys.UnraisableHookArgs) -> None:
    """Exit if a callback could not raise the interruption: Python would print its traceback and continue."""
    if _arrived and issubclass(unraisable.exc_type, KeyboardInterrupt):
        exit_now(_arrived[0])
    sys.__unraisablehook__(unraisable)


class StopRequest:
    """Records that SIGINT or SIGTERM has arrived, so that the work can end at a safe point."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def raise_if_asked(self, what_now: str) -> None:
        """Raise `Stopped`, with the line that tells the user how to continue, if a signal has arrived."""
        if self.signal_number is not None:
            from cnn_tl.core.errors import Stopped

            raise Stopped(what_now, self.signal_number)


@contextmanager
def stop_on_signals(request: StopRequest | None = None, *, second_ends: bool = True) -> Iterator[StopRequest]:
    """Catch the first SIGINT or SIGTERM in a `StopRequest`; the second one ends the process at once.

    In another program, the second signal does what that program has it do: in a notebook or a prompt it raises
    `KeyboardInterrupt`, and the interpreter with its variables survives. Outside the main thread (a server, a
    notebook's worker) signals are left alone.

    Args:
        request: records the signal; by default a new one.
        second_ends: False: further signals do nothing. A launcher passes on signals that the terminal has already sent.
    """
    request = StopRequest() if request is None else request
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request and second_ends:
            callers = before[signal.Signals(number)]
            if callable(callers) and not is_ours(callers):
                callers(number, frame)
                return
            os._exit(128 + number)
        request.signal_number = number

    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in found.items() if handler is not None}  # None: not set from Python
    for number in before:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

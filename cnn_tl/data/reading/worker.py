"""The program of a process that decodes images for another one.

It imports nothing but numpy, Pillow and what reads images: no torch, and never the user's own script, so no
`if __name__ == "__main__"` is needed there.

It reads requests from its standard input and writes replies to its standard output, both pickled. A request is a place
in shared memory, its size, and jobs; a reply has one outcome for each job (`Outcome`). It ends with the process that
started it, and only with that: a Ctrl-C at the terminal reaches all processes, and this one may still be needed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import CnnTlError
from cnn_tl.data.reading.jobs import Decoded, Job
from cnn_tl.data.reading.shared_memory import attached

NICENESS = 5
"""Decoding gives way to the process that computes; images are decoded in advance while that waits."""

CHECK_SECONDS = 1.0
"""How often a worker looks whether the process that started it is still there."""


@dataclass(frozen=True)
class Placed:
    """Pixels in shared memory: where they start, and their shape; `blank` as in `Decoded`."""

    start: int
    shape: tuple[int, ...]
    blank: str | None


Outcome: TypeAlias = Placed | Decoded | CnnTlError | None
"""Pixels in shared memory or, if they did not fit there, in the reply; or an error of the image. None: something else
happened, and who asked reads the image itself to see what."""


@dataclass(frozen=True)
class Request:
    """Jobs, and the place for their pixels: `size` bytes of shared memory from `start` on."""

    start: int
    size: int
    jobs: Sequence[Job]


@dataclass(frozen=True)
class Reply:
    """One outcome for each job, and the CPU time they took together, in seconds."""

    outcomes: list[Outcome]
    seconds: float


@dataclass(frozen=True)
class Greeting:
    """What a worker is told first: how to get the shared memory, and the process id of who asks."""

    memory: tuple[int | str, int]
    parent: int


def main() -> None:
    """Answer requests until the other end is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not get among the replies
    with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):  # closed, perhaps within a message
        greeting: Greeting = pickle.load(sys.stdin.buffer)
        shared = attached(greeting.memory)
        if sys.platform != "win32":
            os.nice(NICENESS)
            threading.Thread(target=_end_with, args=(greeting.parent,), daemon=True).start()
        while True:
            request: Request = pickle.load(sys.stdin.buffer)
            pickle.dump(answer(request, shared), replies, pickle.HIGHEST_PROTOCOL)
            replies.flush()
    os._exit(0)


def answer(request: Request, shared: NDArray[np.uint8]) -> Reply:
    """Run the jobs of a request, and put their pixels one after the other into its place."""
    started = time.thread_time()
    outcomes: list[Outcome] = []
    start, end = request.start, request.start + request.size
    for job in request.jobs:
        try:
            decoded = job.run()
        except CnnTlError as error:
            outcomes.append(error)
            continue
        except Exception:  # noqa: BLE001 - perhaps it cannot be pickled, and its traceback would be lost
            outcomes.append(None)
            continue
        pixels = decoded.pixels
        if start + pixels.nbytes > end:
            outcomes.append(decoded)
            continue
        shared[start : start + pixels.nbytes] = pixels.reshape(-1)
        outcomes.append(Placed(start, pixels.shape, decoded.blank))
        start += pixels.nbytes
    return Reply(outcomes, time.thread_time() - started)


def _end_with(parent: int) -> None:
    """End this process when its parent has gone, even if a copy of the parent keeps the pipes open."""
    while os.getppid() == parent:
        time.sleep(CHECK_SECONDS)
    os._exit(0)

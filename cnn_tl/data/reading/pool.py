"""Processes that decode images for this one, and the threads that hand them the work.

Each thread looks after one process (`worker.py`). It sends several chunks of jobs in advance, so that the process goes
on while this interpreter is busy, with an import for example. If the process dies, because the system ran out of
memory or would not start it, its thread does the work itself, and nothing is lost but speed.

torchvision's decoder, which releases the interpreter's lock, gives the same bits. But it needs torch, and decodes large
photographs whole: 12 megapixels in 32 ms, where Pillow takes 10 for a quarter of the width.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from cnn_tl.data.reading.jobs import Decoded, Job
from cnn_tl.data.reading.process import WorkerProcess
from cnn_tl.data.reading.shared_memory import SharedMemory
from cnn_tl.data.reading.worker import Outcome, Placed, Request

SHARED_BYTES = 2**30
"""Size of the shared memory; see `SharedMemory`. What does not fit comes through a pipe."""

MOST_SENT = 4
"""Chunks that a process may have at once."""


class _ClosedError(Exception):
    """The pool was closed before the chunk was done."""


@dataclass(frozen=True)
class Results:
    """What has become of a chunk: for each job its pixels or an error, and the CPU time it took in all, in seconds."""

    outcomes: list[Decoded | Exception]
    seconds: float


@dataclass(frozen=True, eq=False)
class Chunk:
    """Jobs that one process does at a time.

    Attributes:
        start, size: the place of their pixels in shared memory; a size of 0: they have none.
        results: pixels in shared memory are valid until `Pool.free`.
    """

    jobs: Sequence[Job]
    start: int
    size: int
    results: Future[Results] = field(default_factory=Future)


class Pool:
    """A number of processes that decode images; any thread may call the methods.

    Raises:
        OSError: there is no shared memory.
    """

    def __init__(self, workers: int) -> None:
        self.workers, self._owner = workers, os.getpid()
        self._memory = SharedMemory(SHARED_BYTES)
        self._changed = threading.Condition()
        self._pending: deque[Chunk] = deque()
        self._processes: list[WorkerProcess] = []
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name="decode", daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, jobs: Sequence[Job]) -> Chunk:
        """Queue jobs, and return the chunk that will have the results; it must be given to `free`."""
        size = sum(job.expected_bytes for job in jobs)
        start = self._memory.take(size)
        chunk = Chunk(jobs, start or 0, 0 if start is None else size)
        with self._changed:
            self._pending.append(chunk)
            self._changed.notify()
        return chunk

    def free(self, chunk: Chunk) -> None:
        """Give back the memory of a chunk, as soon as no process writes to it any more; cancel what has not begun."""
        chunk.results.cancel()
        if chunk.size:
            chunk.results.add_done_callback(lambda _: self._memory.free(chunk.start))

    def release_memory(self) -> None:
        """Give memory that is not in use back to the system."""
        self._memory.release_pages()

    def close(self) -> None:
        """End the processes; chunks that are not done stay so."""
        if os.getpid() != self._owner:
            return  # a fork of the process that they belong to
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            for process in self._processes:
                process.kill()
        for chunk in self._pending:
            chunk.results.cancel()
        for thread in self._threads:
            thread.join()
        self._memory.close()

    def _work(self) -> None:
        """Do chunks until the pool is closed: the body of a thread."""
        sent: deque[Chunk] = deque()
        with contextlib.suppress(Exception):  # whatever is wrong with the process: its thread takes over
            self._work_by_process(sent)
        while chunk := sent.popleft() if sent else self._next(0):
            if self._closed:
                chunk.results.set_exception(_ClosedError())
            else:
                started = time.thread_time()
                outcomes = [_outcome_here(job) for job in chunk.jobs]
                chunk.results.set_result(Results(outcomes, time.thread_time() - started))

    def _work_by_process(self, sent: deque[Chunk]) -> None:
        """Let a process do chunks; those in `sent` are not done when an exception ends it."""
        process = WorkerProcess(self._memory)
        try:
            with self._changed:
                self._processes.append(process)
                if self._closed:
                    return
            while True:
                while chunk := self._next(len(sent)):
                    sent.append(chunk)
                    process.send(Request(chunk.start, chunk.size, chunk.jobs))
                if not sent:
                    return
                reply = process.receive()
                outcomes = [self._outcome(*pair) for pair in zip(sent[0].jobs, reply.outcomes, strict=True)]
                sent.popleft().results.set_result(Results(outcomes, reply.seconds))
        finally:
            process.close()

    def _next(self, sent: int) -> Chunk | None:
        """Return the next chunk for a process that has `sent` ones already; None: no more at present.

        A process without work waits for some. One that has work gets more only if enough is left for the others.
        """
        with self._changed:
            while True:
                if not sent:
                    self._changed.wait_for(lambda: self._pending or self._closed)
                elif sent >= MOST_SENT or len(self._pending) < sent * self.workers:
                    return None
                if self._closed or not self._pending:
                    return None
                chunk = self._pending.popleft()
                if chunk.results.set_running_or_notify_cancel():
                    return chunk

    def _outcome(self, job: Job, outcome: Outcome) -> Decoded | Exception:
        if outcome is None:
            return _outcome_here(job)
        if isinstance(outcome, Placed):
            pixels = self._memory.bytes[outcome.start : outcome.start + math.prod(outcome.shape)]
            return Decoded(pixels.reshape(outcome.shape), outcome.blank)
        return outcome


def _outcome_here(job: Job) -> Decoded | Exception:
    try:
        return job.run()
    except Exception as error:  # noqa: BLE001 - raised again where the pixels are wanted
        return error


class _Shared:
    """The pools of this process, by their number of workers, and how many blocks use them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.pools: dict[int, Pool] = {}
        self.users = 0


_shared = _Shared()


def _forget_pools() -> None:
    global _shared
    _shared = _Shared()


def _close_pools() -> None:
    """Close what somebody has not read to the end, while there still is an interpreter for the threads."""
    with _shared.lock:
        left = list(_shared.pools.values())
        _shared.pools.clear()
    for pool in left:
        pool.close()


atexit.register(_close_pools)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pools)


@contextmanager
def pools_kept() -> Iterator[None]:
    """Keep the processes that are started inside the block until its end, for all that use them there.

    Blocks may be nested, and be in several threads; the last one ends the processes.
    """
    shared = _shared
    with shared.lock:
        shared.users += 1
    try:
        yield
    finally:
        left: list[Pool] = []
        with shared.lock:
            shared.users -= 1
            if not shared.users:
                left = list(shared.pools.values())
                shared.pools.clear()
        for pool in left:
            pool.close()


@contextmanager
def pool_of(workers: int) -> Iterator[Pool]:
    """Yield the pool of this many processes, started now if no enclosing block has it.

    Raises:
        OSError: there is no shared memory.
    """
    with pools_kept():
        yield _pool(workers)


def start_early(workers: int) -> None:
    """Start a pool that will be needed soon; only inside a block of `pools_kept`.

    Raises:
        OSError: there is no shared memory.
    """
    assert _shared.users, "nobody would end the processes"
    _pool(workers)


def _pool(workers: int) -> Pool:
    with _shared.lock:
        if workers not in _shared.pools:
            _shared.pools[workers] = Pool(workers)
        return _shared.pools[workers]

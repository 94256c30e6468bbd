"""Decoding image files in advance, in order, by threads or by processes.

Processes do it where there are so many cores that threads would wait for the interpreter's lock. The result does not
depend on who decodes, nor on the number of workers.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import chain
from typing import Generic

import numpy as np

from cnn_tl.data.loader import Batch, Item, batch_of, grouped, in_groups, reading
from cnn_tl.data.reading.jobs import Decoded, Job
from cnn_tl.data.reading.pool import MOST_SENT, Chunk, Pool, pool_of, start_early

PROCESSES_FROM = 8
"""Workers from which on processes decode images. Of 16 cores, 16 threads decoded 1,320 images a second and as many
processes 2,591; with 8 there were 1,304 and 1,377, and the threads kept the interpreter from launching kernels; with 4
there were 927 and 743."""

IMAGES_EACH = 32
"""Images for each worker from which on processes are worth the time that they take to start, 0.3 s."""

CHUNK = 16
"""Images that a process is given at a time, at most."""

MEMORY = 512 * 10**6
"""Bytes of pixels that processes decode in advance, about, for example while torch is being imported."""

IMAGES_AHEAD = 256
"""Images for each process that are decoded in advance, at most."""


def by_processes(workers: int, images: int) -> bool:
    """Return whether processes decode this many images, rather than threads."""
    has_interpreter = bool(sys.executable) and not getattr(sys, "frozen", False)
    return has_interpreter and workers >= PROCESSES_FROM and images >= IMAGES_EACH * workers


def prepare(workers: int, images: int) -> None:
    """Start the processes that will soon decode this many images, if processes will; see `start_early`."""
    if by_processes(workers, images):
        with suppress(OSError):  # then threads will
            start_early(workers)


@contextmanager
def decoding(
    groups: Iterable[Sequence[Item]],
    job_of: Callable[[Item], Job],
    *,
    workers: int,
    images: int,
    ahead: int = 2,
    memory: int = MEMORY,
) -> Iterator[Iterator[Batch[Item]]]:
    """Start to run jobs in advance, by threads or processes, and yield an iterator over the batches in order.

    An image that raises `BadImageError` is reported in its batch; any other error ends the iteration.

    Args:
        workers: how many threads or processes; 0: this thread.
        images: how many there are, about; few are read by threads.
        ahead: groups that threads may decode in advance.
        memory: bytes of pixels that processes may decode in advance, about; always at least one group.
    """
    with ExitStack() as stack:
        pool = None
        if by_processes(workers, images):
            with suppress(OSError):  # the system has no shared memory
                pool = stack.enter_context(pool_of(workers))
        if pool is None:
            made = reading(groups, lambda item: run_timed(job_of(item)), workers=workers, ahead=ahead)
            yield stack.enter_context(made)
            return
        chunk = max(1, min(CHUNK, images // (workers * MOST_SENT)))
        window = _Window(pool, iter(groups), job_of, chunk, memory)
        stack.callback(window.close)
        window.fill()
        yield window.batches()


def decoded_batches(
    items: Iterable[Item], job_of: Callable[[Item], Job], *, batch_size: int, workers: int, images: int
) -> Iterator[Batch[Item]]:
    """Yield batches of at most `batch_size` images; see `decoding`."""
    with decoding(grouped(items, batch_size), job_of, workers=workers, images=images) as made:
        yield from made


class _Window(Generic[Item]):
    """The groups that processes decode in advance, in order."""

    def __init__(
        self, pool: Pool, groups: Iterator[Sequence[Item]], job_of: Callable[[Item], Job], most: int, memory: int
    ) -> None:
        self._pool, self._groups, self._job_of, self._most, self._memory = pool, groups, job_of, most, memory
        self._waiting: deque[tuple[Sequence[Item], int, list[Chunk]]] = deque()
        self._bytes = self._images = 0

    def fill(self) -> None:
        """Submit groups until their pixels take the memory that they may, or they are very many."""
        most = IMAGES_AHEAD * self._pool.workers
        while not self._waiting or (self._bytes < self._memory and self._images < most):
            group = next(self._groups, None)
            if group is None:
                return
            jobs = [self._job_of(item) for item in group]
            sizes = [job.expected_bytes for job in jobs]
            at_once = max(1, min(self._most, self._memory // (2 * self._pool.workers * max(sizes, default=1))))
            self._waiting.append((group, sum(sizes), [self._pool.submit(some) for some in in_groups(jobs, at_once)]))
            self._bytes += sum(sizes)
            self._images += len(group)

    def batches(self) -> Iterator[Batch[Item]]:
        """Yield the batches, and submit more."""
        while self._waiting:
            group, nbytes, chunks = self._waiting[0]
            results = [chunk.results.result() for chunk in chunks]
            outcomes = chain.from_iterable(one.outcomes for one in results)
            batch = _copied(batch_of(zip(group, outcomes, strict=True), sum(one.seconds for one in results)))
            self._waiting.popleft()
            self._bytes -= nbytes
            self._images -= len(group)
            self._free(chunks)
            self.fill()
            yield batch

    def close(self) -> None:
        """Cancel what is left."""
        for _, _, chunks in self._waiting:
            self._free(chunks)
        self._waiting.clear()
        self._pool.release_memory()

    def _free(self, chunks: list[Chunk]) -> None:
        for chunk in chunks:
            self._pool.free(chunk)


def run_timed(job: Job) -> Decoded:
    """Run a job in this thread, and note how much CPU time it took."""
    started = time.thread_time()
    decoded = job.run()
    return replace(decoded, seconds=time.thread_time() - started)


def _copied(batch: Batch[Item]) -> Batch[Item]:
    rows = list(batch.rows)
    one_shape = len({row.shape for row in rows}) == 1
    return replace(batch, rows=np.stack(rows) if one_shape else [row.copy() for row in rows])

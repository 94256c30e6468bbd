"""Reading images in order, a bounded number in advance, by threads or by processes.

`reading` calls any function in threads. `decoding` runs jobs (`reading/jobs.py`): in threads too where these are as
fast, because Pillow releases the interpreter's lock while it decodes and resizes; and in processes where there are so
many cores that threads would wait for that lock (`PROCESSES_FROM`). The result does not depend on who reads it, nor on
the number of workers.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from queue import Empty, Full, Queue
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import BadImageError
from cnn_tl.data.reading.jobs import Decoded, Job
from cnn_tl.data.reading.pool import MOST_SENT, Chunk, Pool, pool_of, start_early

Item = TypeVar("Item")
Pixels = NDArray[np.uint8]

PROCESSES_FROM = 8
"""Workers from which on processes decode images. Of 16 cores, 16 threads decoded 1,320 images a second and as many
processes 2,591; with 8 there were 1,304 and 1,377, and the threads kept the interpreter from launching kernels; with 4
there were 927 and 743."""

IMAGES_EACH = 32
"""Images for each worker from which on processes are worth the time that they take to start, 0.3 s."""

CHUNK = 16
"""Images that a process is given at a time, at most."""

MEMORY = 256 * 10**6
"""Bytes of pixels that are decoded in advance, about, where processes do it."""


IMAGES_AHEAD = 256
"""Images for each process that are decoded in advance, at most."""


@dataclass(frozen=True)
class Batch(Generic[Item]):
    """Some images, in the order in which they were requested.

    Attributes:
        items: those that could be read.
        rows: the pixels of these, uint8: one array [N, ...], or a list of arrays of any shape.
        failures: those that could not be read, with the reason.
        blank: those that show nothing, with the kind, a key of `blank_images.WARNINGS`; only jobs look for it.
        seconds: CPU time of the jobs.
    """

    items: list[Item]
    rows: Pixels | list[Pixels]
    failures: list[tuple[Item, BadImageError]]
    blank: list[tuple[Item, str]] = field(default_factory=list)
    seconds: float = 0.0

    @cached_property
    def pixels(self) -> Pixels:
        """The pixels of images of one size, uint8 [N, H, W, 3]; N may be 0."""
        if isinstance(self.rows, np.ndarray):
            return self.rows
        return np.stack(self.rows) if self.rows else np.empty((0, 0, 0, 3), np.uint8)


class _SameThread(Executor):
    """Runs each call in the thread that submits it."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run the call and return its result or exception; a KeyboardInterrupt is raised directly."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the future carries it
            future.set_exception(error)
        return future


def in_groups(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Divide a sequence into consecutive groups of `size`; the last one may be smaller."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def thread_pool(workers: int) -> Executor:
    """Return a pool of this many threads; with 0, each call runs in the thread that submits it."""
    return ThreadPoolExecutor(workers, thread_name_prefix="read") if workers else _SameThread()


def batches(
    items: Iterable[Item], read: Callable[[Item], Pixels | Decoded], *, batch_size: int, workers: int
) -> Iterator[Batch[Item]]:
    """Yield batches of at most `batch_size` images, read by `workers` threads (0: this one), two batches in advance."""
    with reading(_grouped(items, batch_size), read, workers=workers, ahead=2) as made:
        yield from made


def decoded_batches(
    items: Iterable[Item], job_of: Callable[[Item], Job], *, batch_size: int, workers: int, images: int
) -> Iterator[Batch[Item]]:
    """Yield batches of at most `batch_size` images; see `decoding`."""
    with decoding(_grouped(items, batch_size), job_of, workers=workers, images=images) as made:
        yield from made


def _grouped(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    source = iter(items)
    return iter(lambda: list(islice(source, size)), [])


def as_they_come(
    items: Iterable[Item], read: Callable[[Item], Pixels | Decoded], *, batch_size: int, workers: int
) -> Iterator[Batch[Item]]:
    """Yield batches of the images that are ready, at most `batch_size`: for a source that may block, such as a pipe.

    A thread of its own reads the source, so images that are ready do not wait for later ones; it is at most three
    batches in advance.
    """
    waiting: Queue[tuple[Item, Future[Pixels | Decoded]] | None] = Queue(3 * batch_size)
    failed: list[BaseException] = []
    left = threading.Event()
    pool = thread_pool(workers)

    def submit_all() -> None:
        try:
            for item in items:
                entry = item, pool.submit(read, item)
                while not _put(waiting, entry):
                    if left.is_set():
                        return
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that takes the batches
            failed.append(error)
        while not (_put(waiting, None) or left.is_set()):
            pass

    threading.Thread(target=submit_all, name="submit", daemon=True).start()  # it may block for ever: a daemon
    try:
        more = True
        while more:
            entries = [waiting.get()]
            with suppress(Empty):
                while entries[-1] is not None and len(entries) < batch_size:
                    entries.append(waiting.get_nowait())
            more = entries[-1] is not None
            if ready := [entry for entry in entries if entry is not None]:
                yield _collect(ready)
        if failed:
            raise failed[0]
    finally:
        left.set()
        pool.shutdown(wait=True, cancel_futures=True)


def _put(queue: Queue[Any], entry: object) -> bool:
    """Put an entry into the queue, if there is room within a tenth of a second; return whether there was."""
    try:
        queue.put(entry, timeout=0.1)
    except Full:
        return False
    return True


@contextmanager
def reading(
    groups: Iterable[Sequence[Item]], read: Callable[[Item], Pixels | Decoded], *, workers: int, ahead: int
) -> Iterator[Iterator[Batch[Item]]]:
    """Start to read `ahead` groups in advance by threads, and yield an iterator over the batches in order.

    An image that raises `BadImageError` is reported in its batch; any other error ends the iteration.
    """
    source = iter(groups)
    waiting: deque[list[tuple[Item, Future[Pixels | Decoded]]]] = deque()
    pool = thread_pool(workers)

    def submit(groups: Iterable[Sequence[Item]]) -> None:
        waiting.extend([(item, pool.submit(read, item)) for item in group] for group in groups)

    def collect() -> Iterator[Batch[Item]]:
        while waiting:
            batch = _collect(waiting.popleft())
            submit(islice(source, 1))
            yield batch

    try:
        submit(islice(source, ahead + 1))
        yield collect()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _collect(entries: list[tuple[Item, Future[Pixels | Decoded]]]) -> Batch[Item]:
    made: list[tuple[Item, Pixels | Decoded | Exception]] = []
    for item, future in entries:
        try:
            made.append((item, future.result()))
        except BadImageError as error:
            made.append((item, error))
    return _batch(made)


def _batch(made: Iterable[tuple[Item, Pixels | Decoded | Exception]], seconds: float = 0.0) -> Batch[Item]:
    """Return a batch of what was read; raise the first error that is not a `BadImageError`."""
    items: list[Item] = []
    arrays: list[Pixels] = []
    failures: list[tuple[Item, BadImageError]] = []
    blank: list[tuple[Item, str]] = []
    for item, found in made:
        if isinstance(found, BadImageError):
            failures.append((item, found))
            continue
        if isinstance(found, Exception):
            raise found
        items.append(item)
        if isinstance(found, Decoded):
            arrays.append(found.pixels)
            seconds += found.seconds
            if found.blank:
                blank.append((item, found.blank))
        else:
            arrays.append(found)
    return Batch(items, arrays, failures, blank, seconds)


def _copied(batch: Batch[Item]) -> Batch[Item]:
    rows = list(batch.rows)
    one_shape = len({row.shape for row in rows}) == 1
    return replace(batch, rows=np.stack(rows) if one_shape else [row.copy() for row in rows])


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
            batch = _copied(_batch(zip(group, outcomes, strict=True), sum(one.seconds for one in results)))
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

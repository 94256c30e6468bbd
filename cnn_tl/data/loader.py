"""Reading images by threads, in order, a bounded number in advance; `reading/ahead.py` may use processes instead.

Pillow releases the interpreter's lock while it decodes and resizes, so on few cores threads are as fast. The result
does not depend on the number of workers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from queue import Empty, Full, Queue
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import BadImageError
from cnn_tl.data.reading.jobs import Decoded

Item = TypeVar("Item")
Pixels = NDArray[np.uint8]


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
    with reading(grouped(items, batch_size), read, workers=workers, ahead=2) as made:
        yield from made


def grouped(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Divide the items as they come into consecutive groups of `size`; the last one may be smaller."""
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
    return batch_of(made)


def batch_of(made: Iterable[tuple[Item, Pixels | Decoded | Exception]], seconds: float = 0.0) -> Batch[Item]:
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

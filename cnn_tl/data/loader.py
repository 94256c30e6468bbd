"""Reading images with threads, in order, a bounded number in advance.

Threads rather than processes: Pillow releases the interpreter's lock while it decodes and resizes, nothing is copied
between processes, no shared memory is needed, and the result cannot depend on the number of workers.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from queue import Empty, Full, Queue
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import BadImageError

Item = TypeVar("Item")
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Batch(Generic[Item]):
    """Some images, in the order in which they were requested.

    Attributes:
        items: those that could be read.
        pixels: of these, uint8 [N, H, W, 3]; N may be 0.
        failures: those that could not be read, with the reason.
    """

    items: list[Item]
    pixels: Pixels
    failures: list[tuple[Item, BadImageError]]


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
    items: Iterable[Item], read: Callable[[Item], Pixels], *, batch_size: int, workers: int
) -> Iterator[Batch[Item]]:
    """Yield batches of at most `batch_size` images; see `read_groups`."""
    source = iter(items)
    groups = iter(lambda: list(islice(source, batch_size)), [])
    return read_groups(groups, read, workers=workers)


def read_groups(
    groups: Iterable[Sequence[Item]], read: Callable[[Item], Pixels], *, workers: int
) -> Iterator[Batch[Item]]:
    """Yield one batch for each group, read by `workers` threads (0: this one), two groups in advance."""
    with reading(groups, read, workers=workers, ahead=2) as batches:
        yield from batches


def as_they_come(
    items: Iterable[Item], read: Callable[[Item], Pixels], *, batch_size: int, workers: int
) -> Iterator[Batch[Item]]:
    """Yield batches of the images that are ready, at most `batch_size`: for a source that may block, such as a pipe.

    A thread of its own reads the source, so images that are ready do not wait for later ones; it is at most three
    batches in advance.
    """
    waiting: Queue[tuple[Item, Future[Pixels]] | None] = Queue(3 * batch_size)
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
    groups: Iterable[Sequence[Item]], read: Callable[[Item], Pixels], *, workers: int, ahead: int
) -> Iterator[Iterator[Batch[Item]]]:
    """Start to read `ahead` groups in advance, and yield an iterator over the batches in order.

    An image that raises `BadImageError` is reported in its batch; any other error ends the iteration.
    """
    source = iter(groups)
    waiting: deque[list[tuple[Item, Future[Pixels]]]] = deque()
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


def _collect(entries: list[tuple[Item, Future[Pixels]]]) -> Batch[Item]:
    items: list[Item] = []
    arrays: list[Pixels] = []
    failures: list[tuple[Item, BadImageError]] = []
    for item, future in entries:
        try:
            arrays.append(future.result())
            items.append(item)
        except BadImageError as error:
            failures.append((item, error))
    pixels = np.stack(arrays) if arrays else np.empty((0, 0, 0, 3), np.uint8)
    return Batch(items, pixels, failures)

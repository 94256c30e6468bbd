"""Images read by threads, in order, a bounded number ahead of whoever uses them.

Threads rather than processes: Pillow releases the interpreter while it decodes and resizes, nothing is copied between
processes, no shared memory is needed, and the result cannot depend on the number of workers.
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
    """Some images in the order they were asked for.

    Attributes:
        items: those that could be read.
        pixels: theirs, uint8 [N, H, W, 3]; N may be 0.
        failures: those that could not, with the reason.
    """

    items: list[Item]
    pixels: Pixels
    failures: list[tuple[Item, BadImageError]]


class _AtOnce(Executor):
    """Runs each call where it is submitted, so that the thread that uses the images reads them too."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Return what the call gave or raised; a KeyboardInterrupt ends the submission itself."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 - the future hands it on
            future.set_exception(error)
        return future


def in_groups(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Cut a sequence into consecutive groups of `size`, the last one smaller."""
    return [list(items[start : start + size]) for start in range(0, len(items), size)]


def readers(workers: int) -> Executor:
    """Return so many threads; 0: none, all is done in the thread that asks."""
    return ThreadPoolExecutor(workers, thread_name_prefix="read") if workers else _AtOnce()


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
    """Yield one batch for each group, read by `workers` threads (0: this one), two groups ahead of the one in use."""
    with reading(groups, read, workers=workers, ahead=2) as batches:
        yield from batches


def as_they_come(
    items: Iterable[Item], read: Callable[[Item], Pixels], *, batch_size: int, workers: int
) -> Iterator[Batch[Item]]:
    """Yield batches of what has come by then, at most `batch_size`: for a source that may wait, such as a pipe.

    A thread takes from the source, so nothing that is ready waits for what is not; it is at most three batches ahead.
    """
    waiting: Queue[tuple[Item, Future[Pixels]] | None] = Queue(3 * batch_size)
    failed: list[BaseException] = []
    left = threading.Event()
    pool = readers(workers)

    def feed() -> None:
        try:
            for item in items:
                entry = item, pool.submit(read, item)
                while not _put(waiting, entry):
                    if left.is_set():
                        return
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that uses the images
            failed.append(error)
        while not (_put(waiting, None) or left.is_set()):
            pass

    threading.Thread(target=feed, name="feed", daemon=True).start()  # it may wait for ever, and must not be waited for
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
    """Put it there if there is room within a moment; return whether there was."""
    try:
        queue.put(entry, timeout=0.1)
    except Full:
        return False
    return True


@contextmanager
def reading(
    groups: Iterable[Sequence[Item]], read: Callable[[Item], Pixels], *, workers: int, ahead: int
) -> Iterator[Iterator[Batch[Item]]]:
    """Begin to read, `ahead` groups before the first is asked for, and give an iterator over the batches in order.

    An image that raises `BadImageError` is reported in its batch; any other error ends the iteration.
    """
    source = iter(groups)
    waiting: deque[list[tuple[Item, Future[Pixels]]]] = deque()
    pool = readers(workers)

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

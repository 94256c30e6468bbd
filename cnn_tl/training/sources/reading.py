"""Images of any size, read or decoded some groups ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn_tl.data.loader import Batch, in_groups, thread_pool
from cnn_tl.data.reading.ahead import by_processes, decoding
from cnn_tl.data.reading.jobs import Job

Item = TypeVar("Item")
Pixels = NDArray[np.uint8]

AHEAD = 2
"""Groups that are read before they are asked for."""

AT_ONCE = 4
"""Images that a thread reads before it returns to the pool: a task for each would cost more Python than the reading."""


@contextmanager
def reading(
    groups: Sequence[Sequence[Item]], read: Callable[[Item], Pixels], workers: int
) -> Iterator[Iterator[list[Pixels]]]:
    """Start to read by threads, and yield an iterator over the images of each group; an error of `read` ends it."""
    pool = thread_pool(workers)
    source = iter(groups)
    waiting: deque[list[Future[list[Pixels]]]] = deque()

    def submit(groups: Iterator[Sequence[Item]]) -> None:
        for group in groups:
            waiting.append(
                [pool.submit(lambda part: [read(item) for item in part], part) for part in in_groups(group, AT_ONCE)]
            )

    def collect() -> Iterator[list[Pixels]]:
        submit(islice(source, AHEAD))
        while waiting:
            submit(islice(source, 1))
            yield [pixels for part in waiting.popleft() for pixels in part.result()]

    try:
        yield collect()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def reading_or_decoding(
    groups: Sequence[Sequence[Item]],
    read: Callable[[Item], Pixels],
    lacking: Callable[[], Container[Item]],
    job_of: Callable[[Item], Job],
    pixels_of: Callable[[Pixels], Pixels],
    workers: int,
) -> Iterator[Iterator[list[Pixels]]]:
    """Start to read, and yield an iterator as `reading` does; processes decode what is lacking, if it is much.

    Args:
        read: returns the pixels of any item, decoded if need be.
        lacking: returns the items that must be decoded.
        job_of, pixels_of: decode such an item: a job, and a function from its result to the pixels.
    """
    absent: Container[Item] = lacking() if by_processes(workers, sum(map(len, groups))) else ()
    to_decode = [[item for item in group if item in absent] for group in groups]
    count = sum(map(len, to_decode))
    if not by_processes(workers, count):
        with reading(groups, read, workers) as images:
            yield images
        return
    to_read = [[item for item in group if item not in absent] for group in groups]

    def merged(read: Iterator[list[Pixels]], decoded: Iterator[Batch[Item]]) -> Iterator[list[Pixels]]:
        for group, found, batch in zip(groups, read, decoded, strict=True):
            if batch.failures:
                raise batch.failures[0][1]
            of_each = {False: iter(found), True: map(pixels_of, batch.rows)}
            yield [next(of_each[item in absent]) for item in group]

    with (
        reading(to_read, read, workers) as found,
        decoding(to_decode, job_of, workers=workers, images=count) as batches,
    ):
        yield merged(found, batches)

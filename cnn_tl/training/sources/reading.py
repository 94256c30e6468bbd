"""Images of any size, read by threads some groups ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn_tl.data.loader import in_groups, thread_pool

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
    """Start to read, and yield an iterator over the images of each group; an error of `read` ends it."""
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

"""Images of many requests go through the model together, and each gets its own answer."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cnn_tl.serving.batching import Batcher


def images(count: int) -> list[Any]:
    return [np.full((2, 2, 3), value, np.uint8) for value in range(count)]


def means(pixels: Any) -> Any:
    return pixels.mean(axis=(1, 2)).astype(np.float32)


def test_each_gets_its_own_and_batches_are_full_under_load() -> None:
    sizes: list[int] = []
    go = threading.Event()

    def logits(pixels: Any) -> Any:
        go.wait(30)
        return means(pixels)

    batcher = Batcher(logits, batch_size=8, max_wait=0.05, on_batch=sizes.append)
    with ThreadPoolExecutor(16) as pool:
        futures = list(pool.map(batcher.submit, images(100)))
    go.set()
    assert [future.result(30)[0] for future in futures] == list(range(100))
    batcher.close()
    assert sum(sizes) == 100
    assert sizes[1:-1] == [8] * (len(sizes) - 2)
    assert not batcher.alive


def test_one_alone_does_not_wait_for_ever_and_what_is_cancelled_is_not_computed() -> None:
    sizes: list[int] = []
    batcher = Batcher(means, batch_size=8, max_wait=0.3, on_batch=sizes.append)
    cancelled, kept = batcher.submit(images(1)[0]), batcher.submit(images(2)[1])
    assert cancelled.cancel()
    assert kept.result(30)[0] == 1
    assert sizes == [1]
    batcher.close()


def test_a_failure_is_that_of_its_batch() -> None:
    def logits(pixels: Any) -> Any:
        if pixels[0, 0, 0, 0] == 0:
            raise RuntimeError("no")
        return means(pixels)

    batcher = Batcher(logits, batch_size=1, max_wait=0)
    first, second = map(batcher.submit, images(2))
    with pytest.raises(RuntimeError, match="no"):
        first.result(30)
    assert second.result(30)[0] == 1
    batcher.close()


def test_the_first_waits_for_others_as_long_as_it_may() -> None:
    sizes: list[int] = []
    batcher = Batcher(means, batch_size=2, max_wait=20, on_batch=sizes.append)
    first = batcher.submit(images(1)[0])
    time.sleep(0.1)
    second = batcher.submit(images(2)[1])
    assert (first.result(30)[0], second.result(30)[0]) == (0, 1)
    assert sizes == [2]
    batcher.close()

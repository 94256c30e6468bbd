"""The next item is there before it is asked for, and its error only when it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from cnn_tl.training.loop.batches import Prefetched, busy


def source(taken: list[int]) -> Iterator[int]:
    for number in range(2):
        taken.append(number)
        yield number
    raise ValueError("broken")


def test_what_was_fetched_comes_in_order_and_errors_where_they_belong() -> None:
    taken: list[int] = []
    items = Prefetched(source(taken), float)
    assert next(items) == 0
    items.fetch()
    items.fetch()
    assert taken == [0, 1], "one ahead, however often it is fetched"
    assert next(items) == 1
    items.fetch()  # a step that is under way ends first
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_it_ends() -> None:
    items = Prefetched(iter([1]), float)
    assert list(items) == [1]
    items.fetch()
    assert list(items) == []


def test_only_a_device_that_has_nothing_to_do_waits() -> None:
    seconds = [0.0]

    def slow() -> Iterator[int]:
        while True:
            seconds[0] += 2
            yield 1

    items = Prefetched(slow(), lambda: seconds[0])
    items.fetch(lambda: True)
    assert items.waited == 0
    next(items)
    items.fetch(lambda: False)
    assert items.waited == 2


def test_a_cpu_is_never_busy_with_something_else() -> None:
    assert not busy(torch.device("cpu"))()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_is_busy_until_it_is_done() -> None:
    device = torch.device("cuda")
    a_NN = torch.ones(8192, 8192, device=device)
    torch.cuda.synchronize()
    for _ in range(20):
        a_NN @ a_NN
    is_busy = busy(device)
    assert is_busy()
    torch.cuda.synchronize()
    assert not is_busy()

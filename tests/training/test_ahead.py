"""The next item is there before it is asked for, and its error only when it is."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import torch

from cnn_tl.training.ahead import Ahead, busy


def source(taken: list[int]) -> Iterator[int]:
    for number in range(2):
        taken.append(number)
        yield number
    raise ValueError("broken")


def test_what_was_fetched_comes_in_order_and_errors_where_they_belong() -> None:
    taken: list[int] = []
    items = Ahead(source(taken))
    assert next(items) == 0
    items.fetch()
    items.fetch()
    assert taken == [0, 1], "one ahead, however often it is fetched"
    assert next(items) == 1
    items.fetch()  # a step that is under way ends first
    with pytest.raises(ValueError, match="broken"):
        next(items)


def test_it_ends() -> None:
    items = Ahead(iter([1]))
    assert list(items) == [1]
    items.fetch()
    assert list(items) == []


def slow() -> Iterator[int]:
    while True:
        time.sleep(0.02)
        yield 1


def test_only_a_device_that_has_nothing_to_do_waits() -> None:
    items = Ahead(slow())
    items.fetch(lambda: True)
    assert items.waited == 0
    next(items)
    items.fetch(lambda: False)
    assert items.waited > 0.01


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

"""The next item is there before it is asked for, and its error only when it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cnn_tl.training.ahead import Ahead


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
    assert items.waited >= 0

"""The readers of images: how many there are shows in nothing but the time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cnn_tl.core.errors import BadImageError
from cnn_tl.data.loader import Pixels, as_they_come, batches


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_do_not_depend_on_the_readers(workers: int) -> None:
    seen: set[threading.Thread] = set()

    def read(number: int) -> Pixels:
        seen.add(threading.current_thread())
        if number == 4:
            raise BadImageError(Path("4.png"), "broken")
        return np.full((2, 2, 3), number, np.uint8)

    made = list(batches(range(7), read, batch_size=3, workers=workers))
    assert [batch.items for batch in made] == [[0, 1, 2], [3, 5], [6]]
    assert [batch.pixels[:, 0, 0, 0].tolist() for batch in made] == [[0, 1, 2], [3, 5], [6]]
    assert [item for batch in made for item, _ in batch.failures] == [4]
    assert (threading.current_thread() in seen) == (workers == 0)
    assert len(seen) <= max(1, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_of_ours_ends_the_iteration(workers: int) -> None:
    with pytest.raises(ZeroDivisionError):
        list(batches(range(3), lambda number: np.full((1, 1, 3), 1 // number), batch_size=2, workers=workers))


def plain(number: int) -> Pixels:
    return np.full((1, 1, 3), number, np.uint8)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_what_has_come_does_not_wait_for_what_has_not(workers: int) -> None:
    go_on = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        assert go_on.wait(60)
        yield from range(2, 9)

    made = as_they_come(source(), plain, batch_size=3, workers=workers)
    assert next(made).items == [1]
    go_on.set()
    rest = [batch.items for batch in made]
    assert [item for items in rest for item in items] == list(range(2, 9))
    assert max(map(len, rest)) <= 3


def test_no_more_is_taken_than_is_read_ahead() -> None:
    taken = []

    def source() -> Iterator[int]:
        for number in range(200):
            taken.append(number)
            yield number

    made = as_they_come(source(), plain, batch_size=4, workers=2)
    next(made)
    made.close()  # type: ignore[attr-defined]
    assert len(taken) < 40


def test_an_error_of_the_source_comes_after_what_was_there() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise LookupError

    made = as_they_come(source(), plain, batch_size=4, workers=2)
    assert next(made).items == [1]
    with pytest.raises(LookupError):
        next(made)

"""The readers of pictures: how many there are shows in nothing but the time."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from cnn_tl.data.loader import Pixels, batches
from cnn_tl.errors import BadImageError


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

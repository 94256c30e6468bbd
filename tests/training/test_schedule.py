from __future__ import annotations

from itertools import pairwise

import pytest

from cnn_tl.recipe_sections import Train
from cnn_tl.training.schedule import epoch_batches, learning_rate_factor

COSINE = Train(schedule="cosine", warmup=0.1)


def test_warm_up_then_cosine() -> None:
    factors = [learning_rate_factor(step, 100, COSINE) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert factors[10] == 1.0
    assert factors[55] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(factors[10:]))
    assert 0 < factors[-1] < 0.001


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.0), (1, 1.0), (2, 0.5), (3, 1.0)])
def test_short_runs_have_a_rate_above_zero(steps: int, warmup: float) -> None:
    settings = COSINE.model_copy(update={"warmup": warmup})
    assert all(0 < learning_rate_factor(step, steps, settings) <= 1 for step in range(steps))


@pytest.mark.parametrize(("items", "batch"), [(1, 32), (33, 32), (225, 32), (64, 32), (5, 1), (3, 2), (5, 2)])
def test_batches_hold_every_item_once_in_even_sizes(items: int, batch: int) -> None:
    made = epoch_batches(range(items), batch, seed=0, epoch=1)
    assert sorted(i for b in made for i in b) == list(range(items))
    sizes = {len(b) for b in made}
    assert max(sizes) <= batch or (max(sizes), batch) == (3, 2)
    assert min(sizes) > 1 or batch == 1 or items == 1
    assert max(sizes) - min(sizes) <= 1


def test_order_is_a_function_of_seed_and_epoch() -> None:
    orders = {
        (seed, epoch): str(epoch_batches(range(50), 8, seed, epoch)) for seed in (0, 1) for epoch in (1, 2)
    }
    assert len(set(orders.values())) == 4
    assert orders[0, 1] == str(epoch_batches(range(50), 8, 0, 1))

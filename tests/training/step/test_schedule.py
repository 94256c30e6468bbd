from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch

from cnn_tl.recipe.defaults import MODE_TRAIN
from cnn_tl.recipe.resolved import LoopTrain
from cnn_tl.training.step.schedule import balanced_batches, batches_in_epoch, epoch_batches, learning_rate_factor


def train(**chosen: object) -> LoopTrain:
    """Return the settings of mode finetune with some of them chosen."""
    return MODE_TRAIN["finetune"].model_copy(update=chosen)


COSINE = train(schedule="cosine", warmup=0.1)


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


@pytest.mark.parametrize(("steps", "warmup"), [(20, 0.3), (20, 0.1), (7, 0.3), (100, 0.25)])
def test_one_cycle_is_torchs_own(steps: int, warmup: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=steps, pct_start=warmup, cycle_momentum=False
    )
    settings = train(schedule="one-cycle", warmup=warmup)
    for step in range(steps):
        assert learning_rate_factor(step, steps, settings) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        if step < steps - 1:
            theirs.step()


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.3, 0.5, 1.0])
def test_one_cycle_of_a_few_steps_has_rates_above_zero(steps: int, warmup: float) -> None:
    settings = train(schedule="one-cycle", warmup=warmup)
    assert all(0 < learning_rate_factor(step, steps, settings) <= 1 for step in range(steps))


@pytest.mark.parametrize(("items", "batch"), [(1, 32), (33, 32), (225, 32), (64, 32), (5, 1), (3, 2), (5, 2)])
def test_batches_hold_every_item_once_in_even_sizes(items: int, batch: int) -> None:
    made = epoch_batches(range(items), batch, seed=0, epoch=1)
    assert sorted(i for b in made for i in b) == list(range(items))
    sizes = {len(b) for b in made}
    assert max(sizes) <= batch or (max(sizes), batch) == (3, 2)
    assert min(sizes) > 1 or batch == 1 or items == 1
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("places", [1, 2, 5, 36, 49])
@pytest.mark.parametrize("batch_size", [1, 2, 8, 64])
def test_the_number_of_batches_is_known_beforehand(places: int, batch_size: int) -> None:
    assert batches_in_epoch(places, batch_size) == len(epoch_batches(range(places), batch_size, 0, 1))


def test_order_is_a_function_of_seed_and_epoch() -> None:
    orders = {(seed, epoch): str(epoch_batches(range(50), 8, seed, epoch)) for seed in (0, 1) for epoch in (1, 2)}
    assert len(set(orders.values())) == 4
    assert orders[0, 1] == str(epoch_batches(range(50), 8, 0, 1))


LABELS = [0] * 40 + [1] * 3 + [2] * 10 + [5]


def balanced(epoch: int, *, batch: int = 8, seed: int = 0, labels: list[int] = LABELS) -> list[int]:
    return [item for group in balanced_batches(range(len(labels)), labels, batch, seed, epoch) for item in group]


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 53, 100])
def test_a_balanced_epoch_has_the_batches_of_a_natural_one(batch: int) -> None:
    items = [f"image {number}" for number in range(len(LABELS))]
    made = balanced_batches(items, LABELS, batch, seed=0, epoch=1)
    assert [len(group) for group in made] == [len(group) for group in epoch_batches(items, batch, seed=0, epoch=1)]
    assert {item for group in made for item in group} <= set(items)


def test_each_class_has_as_many_places_as_any_other() -> None:
    total: Counter[int] = Counter()
    for epoch in range(1, 9):
        counts = Counter(LABELS[item] for item in balanced(epoch))
        assert set(counts) == {0, 1, 2, 5}
        assert max(counts.values()) - min(counts.values()) <= 1
        total += counts
    assert set(total.values()) == {8 * len(LABELS) / 4}, "what is left over goes round"


def test_no_item_comes_again_before_all_others_of_its_class_have_come() -> None:
    seen: Counter[int] = Counter()
    for epoch in range(1, 30):
        seen += Counter(balanced(epoch))
        for label in set(LABELS):
            times = [seen[item] for item, other in enumerate(LABELS) if other == label]
            assert max(times) - min(times) <= 1, "also from one epoch to the next"


def test_an_item_that_comes_again_comes_at_other_places_with_others() -> None:
    passes = [tuple(item for item in balanced(epoch) if LABELS[item] == 1) for epoch in range(1, 6)]
    assert len(set(passes)) == 5
    first = balanced(1)
    assert first != sorted(first)
    assert {LABELS[item] for item in first[:20]} == {0, 1, 2, 5}, "the classes are mixed"


def test_a_balanced_epoch_is_a_function_of_seed_and_epoch() -> None:
    orders = {(seed, epoch): tuple(balanced(epoch, seed=seed)) for seed in (0, 1) for epoch in (1, 2, 3)}
    assert len(set(orders.values())) == 6
    assert orders[1, 3] == tuple(balanced(3, seed=1)), "no earlier epoch has to be drawn first"


@pytest.mark.parametrize("labels", [[7], [0, 1], [0, 0, 0], list(range(6)), [3, 1] * 9])
def test_equal_classes_make_an_epoch_of_all_items(labels: list[int]) -> None:
    for epoch in (1, 2, 5):
        assert sorted(balanced(epoch, labels=labels)) == list(range(len(labels)))


@pytest.mark.parametrize(("steps", "every", "rate"), [(12, 3, 0.5), (10, 1, 0.1), (30, 3, 0.9), (100, 7, 0.5)])
def test_steps_are_torchs_own(steps: int, every: int, rate: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
    theirs = torch.optim.lr_scheduler.StepLR(optimizer, every, rate)
    settings = train(schedule="step", warmup=0, decay_every=every / steps, decay_rate=rate)
    for step in range(steps):
        assert learning_rate_factor(step, steps, settings) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


def test_constant_is_the_peak_after_the_warm_up() -> None:
    factors = [learning_rate_factor(step, 10, train(schedule="constant", warmup=0.2)) for step in range(10)]
    assert factors == pytest.approx([1 / 3, 2 / 3, *[1.0] * 8])

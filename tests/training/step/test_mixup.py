from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from cnn_tl.core.device import waiting_forbidden
from cnn_tl.recipe import Recipe
from cnn_tl.recipe.resolved import ResolvedAugment
from cnn_tl.training.step.mixup import mixed

N, K = 8, 5


def augment(**chosen: float) -> ResolvedAugment:
    made = Recipe(mode="finetune", augment=chosen).resolve().augment
    assert made is not None
    return made


MIXUP, CUTMIX, BOTH = augment(mixup=0.4), augment(cutmix=1), augment(mixup=0.4, cutmix=1)
ALL = pytest.mark.parametrize("settings", [MIXUP, CUTMIX, BOTH], ids=["mixup", "cutmix", "both"])


def batch() -> tuple[Tensor, Tensor]:
    """Return images that are their own number everywhere, and targets that are one-hot in it."""
    numbers = torch.arange(N, dtype=torch.float32)
    return numbers.reshape(N, 1, 1, 1).expand(N, 3, 12, 20).clone(), torch.eye(N)


@ALL
def test_targets_stay_probabilities_and_say_what_is_in_the_image(settings: ResolvedAugment) -> None:
    x, targets = batch()
    for seed in range(60):
        made, made_targets = mixed(x, targets, settings, seed)
        assert (made.shape, made.dtype, made_targets.dtype) == (x.shape, x.dtype, targets.dtype)
        torch.testing.assert_close(made_targets.sum(dim=1), torch.ones(N))
        assert (made_targets >= 0).all()
        # the mean of an image's pixels is the expectation of its number: exactly what the targets claim
        torch.testing.assert_close(made.mean(dim=(1, 2, 3)), made_targets @ torch.arange(N, dtype=torch.float32))


@ALL
def test_partners_are_a_permutation(settings: ResolvedAugment) -> None:
    x, targets = batch()
    for seed in range(30):
        _, made = mixed(x, targets, settings, seed)
        torch.testing.assert_close(made.sum(dim=0), torch.ones(N), msg="each image is used to the same extent")


def test_mixup_blends_evenly_and_cutmix_puts_in_a_box() -> None:
    x, targets = batch()
    blended, _ = mixed(x, targets, MIXUP, 3)
    assert (blended == blended[:, :1, :1, :1]).all()
    sizes = set()
    for seed in range(40):
        cut, made_targets = mixed(x, targets, CUTMIX, seed)
        foreign = (cut != x).all(dim=1)
        assert (foreign == (cut != x).any(dim=1)).all(), "the same box in every channel"
        for image, (own, inside) in enumerate(zip(x, foreign, strict=True)):
            if not inside.any():
                continue
            rows, columns = inside.any(dim=1).nonzero(), inside.any(dim=0).nonzero()
            height, width = int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)
            assert inside.sum() == height * width
            partner = int(cut[image, 0][inside][0])
            assert (cut[image][:, inside] == partner).all()
            torch.testing.assert_close(made_targets[image, partner], torch.tensor(height * width / own[0].numel()))
            sizes.add((height, width))
    assert len(sizes) > 10


def test_with_both_each_batch_gets_one_of_them_at_equal_odds() -> None:
    x, targets = batch()
    evenly = 0
    for seed in range(200):
        made, _ = mixed(x, targets, BOTH, seed)
        evenly += bool((made == made[:, :1, :1, :1]).all())
    assert 70 < evenly < 140, "a cut of nothing or of all looks even, too"


def test_the_share_is_drawn_from_beta() -> None:
    x, targets = torch.zeros(2, 1), torch.eye(2)
    for alpha in (0.2, 1.0, 8.0):
        made = [mixed(x, targets, augment(mixup=alpha), seed)[1] for seed in range(2000)]
        shares = np.array([float(t[0, 0]) for t in made if t[0, 1] > 0])  # else it is its own partner
        expected = np.random.default_rng(0).beta(alpha, alpha, 20_000)
        assert shares.std() == pytest.approx(expected.std(), rel=0.06)
        assert shares.mean() == pytest.approx(0.5, abs=0.04)


@ALL
def test_a_batch_is_a_function_of_its_seed_and_leaves_everything_else_alone(settings: ResolvedAugment) -> None:
    x, targets = batch()
    before, state = (x.clone(), targets.clone()), torch.get_rng_state()
    numpy_state = np.random.get_state()[1].copy()
    made = mixed(x, targets, settings, 5)
    again = mixed(x, targets, settings, 5)
    assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))
    assert not torch.equal(made[1], mixed(x, targets, settings, 6)[1])
    assert torch.equal(x, before[0])
    assert torch.equal(targets, before[1])
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


@ALL
def test_one_image_stays_as_it_is(settings: ResolvedAugment) -> None:
    x, targets = torch.ones(1, 3, 4, 4), torch.ones(1, K)
    assert mixed(x, targets, settings, 0) == (x, targets)


def test_nothing_switched_on_changes_nothing() -> None:
    x, targets = batch()
    assert mixed(x, targets, augment(), 0) == (x, targets)


@pytest.mark.parametrize("alpha", [5e-324, 1e-3, 100.0])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_extreme_alphas_stay_finite(kind: str, alpha: float) -> None:
    x, targets = batch()
    for seed in range(20):
        made, made_targets = mixed(x, targets, augment(**{kind: alpha}), seed)
        assert made.isfinite().all()
        torch.testing.assert_close(made_targets.sum(dim=1), torch.ones(N))


@pytest.mark.parametrize("shape", [(N, 16), (N, 7, 16), (N, 4, 3, 3)])
def test_mixup_takes_activations_of_any_shape_and_number_format(shape: tuple[int, ...]) -> None:
    x = torch.arange(N, dtype=torch.bfloat16).reshape(N, *[1] * (len(shape) - 1)).expand(shape).contiguous()
    made, targets = mixed(x, torch.eye(N), MIXUP, 1)
    assert (made.dtype, targets.dtype) == (torch.bfloat16, torch.float32)
    expected = (targets @ torch.arange(N, dtype=torch.float32)).reshape(-1, *[1] * (len(shape) - 1)).expand(shape)
    torch.testing.assert_close(made.float(), expected, rtol=0.01, atol=0.01)


@ALL
def test_the_order_in_memory_stays(settings: ResolvedAugment) -> None:
    x = torch.rand(N, 3, 6, 6).to(memory_format=torch.channels_last)
    for seed in range(4):
        assert mixed(x, torch.eye(N), settings, seed)[0].is_contiguous(memory_format=torch.channels_last)


def test_cutmix_of_activations_that_are_no_images_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="needs images"):
        mixed(torch.rand(4, 16), torch.eye(4), CUTMIX, 0)


@pytest.mark.gpu
@ALL
def test_a_gpu_mixes_the_same_images_and_nothing_waits_for_it(settings: ResolvedAugment) -> None:
    x, targets = batch()
    there = x.cuda(), targets.cuda()
    with waiting_forbidden():
        found = mixed(*there, settings, 3)
    for one, other in zip(found, mixed(x, targets, settings, 3), strict=True):
        torch.testing.assert_close(one.cpu(), other)

"""Random views beside what their settings promise: odds, ranges and directions, not only that something changes."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.stats import kstest

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views import augment as module
from cnn_tl.data.views import policies
from cnn_tl.data.views.augment import Augmentation, Finish, augment, draw_view, finish

SPEC = Preprocessing(32, 32, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
STILL = Augmentation(crop_scale_min=1.0, flip=False, color=0.0)
DRAWS = 2000


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8))


def test_half_of_the_views_are_mirrored_left_to_right() -> None:
    mirrored = 0
    for seed in range(400):
        plain = augment(noise(), SPEC, STILL, seed)
        view = augment(noise(), SPEC, Augmentation(1.0, flip=True, color=0.0), seed)
        if np.array_equal(view, plain):
            continue
        assert np.array_equal(view, plain[:, ::-1])
        mirrored += 1
    assert 160 < mirrored < 240


@pytest.mark.parametrize("least", [0.1, 0.3])
def test_a_crop_keeps_any_share_from_the_least_on_in_proportions_of_3_to_4_and_back(least: float) -> None:
    """As RandomResizedCrop draws them: area even, proportions even on a logarithmic scale."""
    side, settings = 10_000, Augmentation(least, flip=False, color=0.0)
    boxes = [module.draw_view(side, side, SPEC, settings, seed).box for seed in range(DRAWS)]
    sizes = np.array([(right - left, bottom - top) for left, top, right, bottom in boxes])
    areas, ratios = sizes.prod(1) / side**2, sizes[:, 0] / sizes[:, 1]
    inside = areas < 0.7  # larger ones may have to end at the border
    assert kstest(areas[inside], "uniform", (least, 0.7 - least)).pvalue > 0.01
    assert kstest(np.log(ratios[inside]), "uniform", (math.log(3 / 4), 2 * math.log(4 / 3))).pvalue > 0.01
    assert areas.max() > 0.97
    lefts = np.array([box[0] for box in boxes])[inside] / (side - sizes[inside, 0])
    assert kstest(lefts, "uniform").pvalue > 0.01


@pytest.mark.parametrize("color", [0.2, 0.8])
def test_light_is_drawn_evenly_to_either_side_of_what_it_was(color: float) -> None:
    lights = [draw_view(64, 64, SPEC, Augmentation(0.5, True, color), seed).finish.jitter for seed in range(DRAWS)]
    for factors in zip(*[light for light in lights if light], strict=True):
        assert kstest(factors, "uniform", (1 - color, 2 * color)).pvalue > 0.01


def test_each_factor_changes_what_it_is_called_in_this_order() -> None:
    image = noise().resize((32, 32))
    expected = ImageEnhance.Brightness(image).enhance(1.3)
    expected = ImageEnhance.Contrast(expected).enhance(0.4)
    expected = ImageEnhance.Color(expected).enhance(1.9)
    made = finish(image, Finish((1.3, 0.4, 1.9), None), SPEC)
    assert np.array_equal(np.asarray(made), np.asarray(expected))


@pytest.mark.parametrize("erasing", [0.1, 0.6])
def test_so_many_views_are_erased(erasing: float) -> None:
    holes = [
        draw_view(64, 64, SPEC, Augmentation(0.5, True, 0.0, erasing=erasing), seed).finish.hole
        for seed in range(DRAWS)
    ]
    assert sum(hole is not None for hole in holes) / DRAWS == pytest.approx(erasing, abs=0.03)


def test_a_sign_is_as_often_minus_as_plus() -> None:
    signed = {name for name, one in policies.trivialaugment_ranges().items() if one.signed}
    draw, below, total = random.Random(0), 0, 0
    for _ in range(DRAWS):
        [operation] = policies.trivialaugment(draw, (32, 32), 0, 0)
        if operation.name in signed and operation.magnitude:
            total, below = total + 1, below + (operation.magnitude < 0)
    assert total > 1000
    assert below / total == pytest.approx(0.5, abs=0.05)

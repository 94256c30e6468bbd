from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views import augment as module
from cnn_tl.data.views.augment import Augmentation, augment

SPEC = Preprocessing(48, 64, "bicubic", 0.875, "center", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
MEAN_COLOUR = (124, 116, 104)
PLAIN = Augmentation(0.5, True, 0.2)
POLICIES = [
    PLAIN,
    replace(PLAIN, policy="randaugment", magnitude=9, ops=2),
    replace(PLAIN, policy="trivialaugment"),
    replace(PLAIN, policy="trivialaugment", erasing=0.5),
]


@pytest.fixture(scope="module")
def image() -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 100, (70, 90, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("settings", POLICIES, ids=str)
def test_a_view_is_a_function_of_its_seed_in_any_thread(settings: Augmentation, image: Image.Image) -> None:
    def view(seed: int) -> Any:
        return augment(image, SPEC, settings, seed)

    alone = [view(seed) for seed in range(40)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(view, range(40)))
    for one, other in zip(alone, together, strict=True):
        assert (one.shape, one.dtype) == ((48, 64, 3), np.uint8)
        np.testing.assert_array_equal(one, other)
    assert len({one.tobytes() for one in alone}) == 40


@pytest.mark.parametrize("settings", POLICIES, ids=str)
def test_the_image_is_left_alone(settings: Augmentation, image: Image.Image) -> None:
    before = image.tobytes()
    same_size = image.resize((SPEC.width, SPEC.height))
    kept = same_size.tobytes()
    for seed in range(20):
        augment(image, SPEC, settings, seed)
        augment(same_size, SPEC, replace(settings, crop_scale_min=1, flip=False, color=0, erasing=1), seed)
    assert image.tobytes() == before
    assert same_size.tobytes() == kept


def test_a_policy_works_on_the_crop_that_is_drawn_without_it(
    image: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(PLAIN, color=0)
    plain = [augment(image, SPEC, settings, seed) for seed in range(10)]
    seen = []

    def spy(image: Image.Image, operations: Any, fill: Any) -> Image.Image:
        seen.append((np.asarray(image), fill))
        return image

    monkeypatch.setattr(module.policies, "perform", spy)
    for seed in range(10):
        augment(image, SPEC, replace(settings, policy="trivialaugment"), seed)
    for one, (image, fill) in zip(plain, seen, strict=True):
        np.testing.assert_array_equal(one, image)
        assert fill == MEAN_COLOUR


def test_erasing_paints_one_rectangle_in_the_mean_colour_and_changes_nothing_else(image: Image.Image) -> None:
    shares, ratios = [], []
    for seed in range(300):
        whole = augment(image, SPEC, PLAIN, seed)
        holed = augment(image, SPEC, replace(PLAIN, erasing=1), seed)
        erased = (holed == MEAN_COLOUR).all(axis=-1)
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        assert erased.sum() == height * width, "a rectangle"
        np.testing.assert_array_equal(whole[~erased], holed[~erased])
        shares.append(height * width / erased.size)
        ratios.append(width / height)
    assert 0.015 < min(shares) < 0.03
    assert 0.3 < max(shares) < 0.35
    assert 0.25 < min(ratios) < 0.4
    assert 2.5 < max(ratios) < 4


def test_erasing_happens_as_often_as_it_is_told(image: Image.Image) -> None:
    settings = replace(PLAIN, erasing=0.25)
    erased = sum(
        not np.array_equal(augment(image, SPEC, PLAIN, seed), augment(image, SPEC, settings, seed))
        for seed in range(400)
    )
    assert 65 < erased < 135


def test_erasing_reaches_every_border() -> None:
    boxes = [box for seed in range(4000) if (box := module._hole(20, 10, random.Random(seed)))]
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    assert (min(lefts), min(tops), max(rights), max(bottoms)) == (0, 0, 20, 10)
    assert all(left < right and top < bottom for left, top, right, bottom in boxes)


@pytest.mark.parametrize("size", [(1, 1), (1000, 1), (1, 1000)])
def test_where_no_rectangle_fits_nothing_is_erased(size: tuple[int, int]) -> None:
    assert not any(module._hole(*size, random.Random(seed)) for seed in range(50))


def test_the_mean_colour_is_a_colour_whatever_the_mean(image: Image.Image) -> None:
    odd = replace(SPEC, mean=(-0.5, 0.0, 7.0))
    pixels = augment(image, odd, replace(PLAIN, erasing=1), 3)
    assert (pixels == (0, 0, 255)).all(axis=-1).any()

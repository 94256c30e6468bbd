"""The policies do what torchvision's do, operation by operation, and draw from nothing but their own generator."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from cnn_tl.data.views.policies import (
    OPERATIONS,
    POLICIES,
    STRONGEST,
    Operation,
    perform,
    randaugment,
    randaugment_ranges,
    trivialaugment,
    trivialaugment_ranges,
)

FILL = (124, 116, 104)
SIZE = (61, 47)
THEIRS = {
    "identity": "Identity", "shear-x": "ShearX", "shear-y": "ShearY", "translate-x": "TranslateX",
    "translate-y": "TranslateY", "rotate": "Rotate", "brightness": "Brightness", "color": "Color",
    "contrast": "Contrast", "sharpness": "Sharpness", "posterize": "Posterize", "solarize": "Solarize",
    "autocontrast": "AutoContrast", "equalize": "Equalize",
}  # fmt: skip


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """Return a smooth image with some noise, whose values span neither channel wholly."""
    random_numbers = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    smooth = np.stack([20 + 3 * x, 30 + 4 * y, 200 - 2 * x], axis=-1)
    return Image.fromarray(np.clip(smooth + random_numbers.normal(0, 12, smooth.shape), 5, 240).astype(np.uint8))


def magnitudes(name: str) -> list[float]:
    """Return the magnitudes that either policy may give an operation, with both signs where it is signed."""
    made = set()
    for ranges in (randaugment_ranges(*SIZE), trivialaugment_ranges()):
        for strength in range(STRONGEST + 1):
            magnitude = ranges[name].at(strength)
            made |= {magnitude, -magnitude} if ranges[name].signed else {magnitude}
    return sorted(made)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_makes_the_pixels_that_torchvisions_makes(name: str, image: Image.Image) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.autoaugment import _apply_op

    for magnitude in magnitudes(name):
        theirs = float(round(magnitude)) if name == "posterize" else magnitude  # the bits in their table are whole
        expected = _apply_op(image, THEIRS[name], theirs, InterpolationMode.BILINEAR, list(FILL))
        ours = perform(image, [Operation(name, magnitude)], FILL)
        assert (ours.mode, ours.size) == ("RGB", SIZE)
        apart = np.abs(np.asarray(ours).astype(int) - np.asarray(expected))
        if name.startswith("shear"):
            # theirs takes the slope by way of an angle in degrees: another last bit, and so here and there another
            # rounding, or another side of the image's edge
            assert (apart > 0).mean() < 0.02, magnitude
            assert (apart > 1).mean() < 0.002, magnitude
        else:
            assert apart.max() == 0, magnitude


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
@pytest.mark.parametrize("size", [SIZE, (224, 224), (33, 160)])
def test_the_ranges_are_torchvisions(policy: str, size: tuple[int, int]) -> None:
    from torchvision.transforms import RandAugment, TrivialAugmentWide

    width, height = size
    if policy == "randaugment":
        ours, theirs = randaugment_ranges(width, height), RandAugment()._augmentation_space(31, (height, width))
    else:
        ours, theirs = trivialaugment_ranges(), TrivialAugmentWide()._augmentation_space(31)
    assert [THEIRS[name] for name in ours] == list(theirs)
    for name, own in ours.items():
        table, signed = theirs[THEIRS[name]]
        assert own.signed == signed
        made = [own.at(strength) for strength in range(31)]
        made = [round(value) for value in made] if name == "posterize" else made
        np.testing.assert_allclose(made, np.broadcast_to(table.numpy(), 31), rtol=1e-6, atol=1e-5)


def test_every_operation_but_identity_changes_the_image(image: Image.Image) -> None:
    before = np.asarray(image).copy()
    for name in OPERATIONS:
        strongest = perform(image, [Operation(name, trivialaugment_ranges()[name].at(STRONGEST))], FILL)
        assert (np.asarray(strongest) != before).any() == (name != "identity"), name
    np.testing.assert_array_equal(np.asarray(image), before, err_msg="the image itself is left alone")


def test_what_comes_in_from_outside_is_the_fill(image: Image.Image) -> None:
    moved = np.asarray(perform(image, [Operation("translate-x", 20.9)], FILL))
    assert (moved[:, :20] == FILL).all(), "rounded towards zero, as in torchvision"
    np.testing.assert_array_equal(moved[:, 20:], np.asarray(image)[:, :-20])


def test_randaugment_draws_so_many_of_one_strength_with_both_signs() -> None:
    drawn = [randaugment(random.Random(seed), SIZE, 12, 3) for seed in range(2000)]
    ranges = randaugment_ranges(*SIZE)
    assert {len(operations) for operations in drawn} == {3}
    flat = [operation for operations in drawn for operation in operations]
    counts = Counter(operation.name for operation in flat)
    assert set(counts) == set(OPERATIONS)
    assert all(abs(count - 6000 / 14) < 5 * (6000 / 14) ** 0.5 for count in counts.values())
    for name, own in ranges.items():
        signs = {operation.magnitude for operation in flat if operation.name == name}
        assert signs == ({own.at(12), -own.at(12)} if own.signed else {own.at(12)})


def test_trivialaugment_draws_one_of_any_strength() -> None:
    drawn = [trivialaugment(random.Random(seed), SIZE, 0, 0) for seed in range(5000)]
    assert {len(operations) for operations in drawn} == {1}
    assert {operations[0].name for operations in drawn} == set(OPERATIONS)
    bright = {round(abs(made.magnitude), 6) for (made,) in drawn if made.name == "brightness"}
    assert bright == {round(0.99 * strength / 30, 6) for strength in range(31)}


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_drawn_is_a_function_of_the_generator_alone(policy: str) -> None:
    state = random.getstate()
    first, again, other = ([POLICIES[policy](random.Random(s + n), SIZE, 9, 2) for n in range(20)] for s in (0, 0, 99))
    assert first == again
    assert (first == other) == (policy == "none")
    assert random.getstate() == state


def test_no_policy_draws_nothing_so_that_views_that_are_kept_already_stay_the_same() -> None:
    draw = random.Random(1)
    assert POLICIES["none"](draw, SIZE, 0, 0) == []
    assert draw.random() == random.Random(1).random()

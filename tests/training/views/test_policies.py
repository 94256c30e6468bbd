"""Policies on the device do what they do with Pillow, operation by operation."""

from __future__ import annotations

import random

import pytest
import torch
from PIL import Image
from source_batches import noise_image, smooth_image, stacked
from torch import Tensor

from cnn_tl.data.views.policies import (
    OPERATIONS,
    POLICIES,
    STRONGEST,
    Operation,
    perform,
    randaugment_ranges,
    trivialaugment_ranges,
)
from cnn_tl.training.views.policies import Policies

FILL = (124, 116, 104)
COLOUR = torch.tensor(FILL, dtype=torch.uint8)


def performed(pixels: Tensor, drawn: list[list[Operation]]) -> Tensor:
    return Policies(pixels.shape[2], pixels.shape[1], COLOUR)(pixels, drawn)


INTERPOLATED = ("shear-x", "shear-y", "rotate")


def magnitudes(name: str, size: tuple[int, int]) -> list[float]:
    """Return the magnitudes that either policy may give an operation, with both signs where it is signed."""
    made = set()
    for ranges in (randaugment_ranges(*size), trivialaugment_ranges()):
        for strength in range(STRONGEST + 1):
            magnitude = ranges[name].at(strength)
            made |= {magnitude, -magnitude} if ranges[name].signed else {magnitude}
    return sorted(made)


def apart(images: list[Image.Image], drawn: list[list[Operation]]) -> Tensor:
    """Return by how much each value is off Pillow's."""
    found = performed(stacked(images), drawn)
    pillow = stacked([perform(image, operations, FILL) for image, operations in zip(images, drawn, strict=True)])
    assert (found.dtype, found.shape) == (torch.uint8, pillow.shape)
    return (found.int() - pillow.int()).abs()


@pytest.mark.parametrize("size", [(61, 47), (64, 64)], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_makes_the_pixels_that_pillow_makes(name: str, size: tuple[int, int]) -> None:
    strengths = magnitudes(name, size)
    for kind in (noise_image, smooth_image):
        images = [kind(*size, seed) for seed in range(len(strengths))]
        off = apart(images, [[Operation(name, magnitude)] for magnitude in strengths])
        if name in INTERPOLATED:
            inside = off[:, 1:-1, 1:-1]  # where the edge of the image runs through pixels, rounding decides
            assert (off > 1).float().mean() < 0.001
            assert off.float().mean() < 0.05
            assert inside.float().mean() < 0.05
        else:
            assert off.max() == 0


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_image_of_one_colour_and_one_of_two_values(name: str) -> None:
    flat, two = Image.new("RGB", (61, 47), (7, 200, 255)), Image.new("RGB", (61, 47), (0, 3, 254))
    two.paste((1, 255, 255), (0, 0, 1, 1))
    strength = magnitudes(name, (61, 47))[-1]
    off = apart([flat, two], [[Operation(name, strength)]] * 2)
    assert off.max() <= 1
    assert off.float().mean() < 0.01


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 5), (1, 30)])
def test_the_smallest_images(width: int, height: int) -> None:
    for name in OPERATIONS:
        off = apart([noise_image(width, height)], [[Operation(name, 1)]])
        assert off.max() <= 1, name


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_a_policy_as_it_is_drawn(policy: str) -> None:
    """Whichever operations meet in a batch, one after the other."""
    images = [smooth_image(64, 48, seed) for seed in range(100)]
    drawn = [POLICIES[policy](random.Random(seed), (64, 48), 9, 2) for seed in range(100)]
    off = apart(images, drawn).float().mean((1, 2, 3))
    assert off.mean() < 0.1
    assert (off > 0.5).sum() <= 2, "equalizing after a difference of 1 may enlarge it"


def test_nothing_drawn_is_nothing_done() -> None:
    pixels = stacked([noise_image(64, 48)] * 2)
    assert performed(pixels, [[], []]) is pixels


def test_a_view_does_not_depend_on_its_companions() -> None:
    images = stacked([noise_image(64, 48, seed) for seed in range(60)])
    drawn = [POLICIES["randaugment"](random.Random(seed), (64, 48), 9, 2) for seed in range(60)]
    together = performed(images, drawn)
    assert torch.equal(performed(images.flip(0), drawn[::-1]).flip(0), together)
    for place in range(60):
        assert torch.equal(performed(images[place : place + 1], drawn[place : place + 1])[0], together[place])


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("brightness", "adjust_brightness"), ("color", "adjust_saturation"), ("sharpness", "adjust_sharpness"),
        ("contrast", "adjust_contrast"), ("posterize", "posterize"), ("solarize", "solarize"),
        ("autocontrast", "autocontrast"), ("equalize", "equalize"),
    ],
)  # fmt: skip
def test_torchvision_has_the_same_operation(name: str, theirs: str) -> None:
    """On tensors it rounds down where Pillow rounds to the nearest, and the other way round."""
    from torchvision.transforms.v2 import functional

    pixels = stacked([noise_image(64, 48)])
    for magnitude in magnitudes(name, (64, 48))[::7]:
        given = {"posterize": [round(magnitude)], "solarize": [magnitude], "autocontrast": [], "equalize": []}
        arguments = given.get(name, [1 + magnitude])
        if name == "posterize" and arguments == [8]:
            continue
        expected = getattr(functional, theirs)(pixels.permute(0, 3, 1, 2), *arguments).permute(0, 2, 3, 1)
        off = (performed(pixels, [[Operation(name, magnitude)]]).int() - expected.int()).abs().float()
        assert off.max() <= 3, magnitude
        assert off.mean() <= 0.6, magnitude


@pytest.mark.parametrize("name", INTERPOLATED)
def test_torchvision_bends_alike(name: str) -> None:
    """It fills the edges halfway, so they are left out; and it rounds to the nearest."""
    from torchvision.transforms.v2.functional import affine, rotate

    pixels = stacked([smooth_image(64, 48)])
    image = pixels.permute(0, 3, 1, 2)
    if name == "rotate":
        expected = rotate(image, 17.0, interpolation=2, fill=list(FILL))
        magnitude = 17.0
    else:
        magnitude = 0.2
        degrees = torch.rad2deg(torch.tensor(0.2).atan()).item()
        shear = [degrees, 0.0] if name == "shear-x" else [0.0, degrees]
        expected = affine(image, 0.0, [0, 0], 1.0, shear, interpolation=2, fill=list(FILL), center=[0, 0])
    found = performed(pixels, [[Operation(name, magnitude)]])
    off = (found.int() - expected.permute(0, 2, 3, 1).int()).abs()[:, 12:-12, 16:-16].float()
    assert off.max() <= 3
    assert off.mean() <= 0.6

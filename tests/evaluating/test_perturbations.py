"""Changed images: each change does what it says, in the network's measures, and at no strength invents a border."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from PIL import Image, ImageFilter

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views import transforms
from cnn_tl.evaluating.perturbations import PERTURBATIONS, View, reduced, rotated, scaled, shifted, view_of

HALF = (0.5, 0.5, 0.5)


Mode = Literal["center", "squash", "border"]


def spec(side: int = 32, crop_pct: float = 0.5, mode: Mode = "center") -> Preprocessing:
    return Preprocessing(side, side, "bicubic", crop_pct, mode, HALF, HALF)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def test_the_view_is_what_the_network_sees() -> None:
    assert view_of(noise(128, 64), spec(32, 0.5)) == View(32.0, 32.0, 1.0, 1.0)
    assert view_of(noise(128, 96), spec(32, 1.0, "squash")) == View(128.0, 96.0, 4.0, 3.0)


def test_a_shift_moves_the_network_s_view_by_that_share() -> None:
    image, wanted = noise(64, 64), spec(32, 0.5)  # as large as the resized image: no resampling
    plain = transforms.resize_and_crop(image, wanted)
    right, left, down, up = (
        transforms.resize_and_crop(one, wanted) for one in shifted(image, view_of(image, wanted), 25)
    )
    assert np.array_equal(right[:, 8:], plain[:, :-8])
    assert np.array_equal(left[:, :-8], plain[:, 8:])
    assert np.array_equal(down[8:], plain[:-8])
    assert np.array_equal(up[:-8], plain[8:])


@pytest.mark.parametrize(("width", "height"), [(60, 20), (20, 60), (40, 32)])
def test_a_share_of_a_view_that_is_not_square_is_that_of_its_own_side(width: int, height: int) -> None:
    image = noise(96, 80)
    pixels = np.asarray(image)
    across, down = width // 4, height // 4
    right, left, lower, upper = (np.asarray(one) for one in shifted(image, View(width, height, 1, 1), 25))
    assert np.array_equal(right[:, across:], pixels[:, :-across])
    assert np.array_equal(left[:, :-across], pixels[:, across:])
    assert np.array_equal(lower[down:], pixels[:-down])
    assert np.array_equal(upper[:-down], pixels[down:])


def test_over_the_border_comes_the_mirrored_image() -> None:
    row = np.arange(4, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    image = Image.fromarray(row.repeat(4, axis=0))
    right, left, *_ = shifted(image, View(4, 4, 1, 1), 50)
    assert np.asarray(right)[0, :, 0].tolist() == [1, 0, 0, 1]
    assert np.asarray(left)[0, :, 0].tolist() == [2, 3, 3, 2]


def test_mirroring_repeats_as_often_as_it_takes() -> None:
    row = np.arange(2, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    [small] = scaled(Image.fromarray(row.repeat(2, axis=0)), View(2, 2, 1, 1), 0.2)
    assert np.asarray(small)[4, :, 0].tolist() == [0, 1, 1, 0, 0, 1, 1, 0, 0, 1]


def test_scaling_shows_the_middle_larger_or_all_of_it_smaller() -> None:
    image = noise(64, 48)
    [large] = scaled(image, View(48, 48, 1, 1), 2)
    assert np.array_equal(np.asarray(large), np.asarray(image)[12:36, 16:48])
    [small] = scaled(image, View(48, 48, 1, 1), 0.5)
    assert small.size == (128, 96)
    assert np.array_equal(np.asarray(small)[24:72, 32:96], np.asarray(image))


def test_rotation_by_a_right_angle_is_exact_and_goes_both_ways() -> None:
    image = noise(32, 32)
    one, other = (np.asarray(turned) for turned in rotated(image, View(32, 32, 1, 1), 90))
    assert np.array_equal(one, np.rot90(np.asarray(image)))
    assert np.array_equal(other, np.rot90(np.asarray(image), -1))
    assert len(rotated(image, View(32, 32, 1, 1), 180)) == 1


@pytest.mark.parametrize("degrees", PERTURBATIONS["rotation"].levels)
def test_no_rotation_brings_in_black_corners(degrees: float) -> None:
    white = Image.new("RGB", (60, 40), "white")
    for turned in rotated(white, View(60, 40, 1, 1), degrees):
        assert np.asarray(turned).min() == 255


def test_blur_and_brightness_are_measured_where_the_network_sees_them() -> None:
    """A blurred point is as wide in an image of twice the size, in the network's eyes."""
    widths = []
    for side in (64, 128):
        point = np.zeros((side, side, 3), np.uint8)
        point[side // 2 - side // 64 : side // 2, side // 2 - side // 64 : side // 2] = 255
        image, wanted = Image.fromarray(point), spec(64, 1.0)
        [blurred] = PERTURBATIONS["blur"].views(image, view_of(image, wanted), 2)
        seen = transforms.resize_and_crop(blurred, wanted)[..., 0].astype(float)
        places = np.arange(64) + 0.5
        middle = (seen.sum(0) * places).sum() / seen.sum()
        widths.append(((seen.sum(0) * (places - middle) ** 2).sum() / seen.sum()) ** 0.5)
    assert widths[0] == pytest.approx(2, rel=0.15)
    assert widths[1] == pytest.approx(widths[0], rel=0.15)
    [dark] = PERTURBATIONS["brightness"].views(Image.new("RGB", (2, 2), (200, 100, 50)), View(2, 2, 1, 1), 0.5)
    assert dark.getpixel((0, 0)) == (100, 50, 25)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(5000, 40), (40, 5000), (3000, 3000)])
def test_a_huge_image_is_reduced_first(mode: Mode, size: tuple[int, int]) -> None:
    wanted = spec(32, 0.9, mode)
    small = reduced(Image.new("RGB", size, "red"), wanted)
    assert max(small.size) <= 16 * 8 * 32
    assert transforms.resize_and_crop(small, wanted).shape == (32, 32, 3)
    assert small.width * small.height < 400_000


def test_a_small_image_is_left_as_it_is() -> None:
    image = noise(40, 40)
    assert reduced(image, spec(32, 0.9)) is image


def test_a_blur_is_measured_on_each_side_by_itself() -> None:
    """Where the network squashes an image, its pixels are not square."""
    image = noise(64, 64)
    [made] = PERTURBATIONS["blur"].views(image, View(64, 64, 4, 1), 1.5)
    assert np.array_equal(np.asarray(made), np.asarray(image.filter(ImageFilter.GaussianBlur((6, 1.5)))))
    assert not np.array_equal(np.asarray(made), np.asarray(image.filter(ImageFilter.GaussianBlur((1.5, 6)))))

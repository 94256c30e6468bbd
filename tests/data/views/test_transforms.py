from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from cnn_tl.core.preprocessing import CropMode, Interpolation, Preprocessing
from cnn_tl.data.decoding.image import read_image
from cnn_tl.data.views.transforms import FILTERS, draft_size, normalise, plain_box, read_pixels, resize_and_crop

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(64, 48), (48, 64), (50, 50), (301, 97), (97, 301), (31, 33), (500, 375)]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


def specification(
    mode: CropMode = "center",
    interpolation: Interpolation = "bicubic",
    crop_pct: float = 0.875,
    size: tuple[int, int] = (32, 32),
) -> Preprocessing:
    return Preprocessing(*size, interpolation, crop_pct, mode, MEAN, STD)


def timms(image: Image.Image, spec: Preprocessing, *, normalised: bool = False) -> np.ndarray:
    from timm.data import create_transform

    transform = create_transform(
        input_size=(3, spec.height, spec.width),
        interpolation=spec.interpolation,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
        mean=spec.mean,
        std=spec.std,
        normalize=normalised,
    )
    return transform(image).numpy()


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("size", [(32, 32), (33, 33), (32, 48), (50, 31)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.9, 1.0])
def test_pixels_equal_timms(
    mode: CropMode, interpolation: Interpolation, size: tuple[int, int], crop_pct: float
) -> None:
    spec = specification(mode, interpolation, crop_pct, size)
    for width, height in SIZES:
        image = noise(width, height)
        ours = resize_and_crop(image, spec)
        assert ours.shape == (*size, 3)
        assert ours.dtype == np.uint8
        np.testing.assert_array_equal(ours.transpose(2, 0, 1), timms(image, spec))


def test_normalised_pixels_equal_timms() -> None:
    spec, image = specification(), noise(60, 50)
    ours = normalise(resize_and_crop(image, spec)[None], spec)
    assert (ours.shape, ours.dtype) == ((1, 3, 32, 32), np.float32)
    assert ours.flags.c_contiguous
    np.testing.assert_array_equal(ours[0], timms(image, spec, normalised=True))


def test_normalise_leaves_its_input_alone() -> None:
    pixels = np.full((2, 4, 4, 3), 200, np.uint8)
    normalise(pixels, specification(size=(4, 4)))
    assert (pixels == 200).all()


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(4, 200_000), (200_000, 4)])
def test_a_long_strip_does_not_fill_the_memory(mode: CropMode, size: tuple[int, int]) -> None:
    assert resize_and_crop(Image.new("RGB", size, "red"), specification(mode)).shape == (32, 32, 3)


def test_trimming_a_strip_changes_nothing_in_the_middle() -> None:
    strip, spec = noise(1400, 20), specification()
    ours = resize_and_crop(strip, spec).astype(np.int16)
    assert np.abs(ours.transpose(2, 0, 1) - timms(strip, spec)).max() <= 1


def test_draft_is_twice_the_resized_size() -> None:
    assert draft_size(specification(crop_pct=0.5, size=(32, 48))) == (192, 192)


@pytest.mark.parametrize("orientation", [1, 6])
def test_load_is_read_and_evaluate_up_to_the_draft(orientation: int, tmp_path: Path) -> None:
    spec = specification()
    exif = Image.Exif()
    exif[0x0112] = orientation
    smooth = noise(8, 6).resize((1600, 1200))
    path = tmp_path / "large.jpg"
    smooth.save(path, quality=95, exif=exif)
    drafted = read_pixels(path, spec)
    whole = resize_and_crop(read_image(path), spec)
    assert np.abs(drafted.astype(np.int16) - whole).mean() < 2
    np.testing.assert_array_equal(read_pixels(path.read_bytes(), spec), drafted)


def test_load_of_a_small_image_is_exact() -> None:
    image, spec, stream = noise(60, 45), specification(), io.BytesIO()
    image.save(stream, "PNG")
    np.testing.assert_array_equal(read_pixels(stream.getvalue(), spec), resize_and_crop(image, spec))


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [*SIZES, (10, 1200), (1200, 10), (400, 20)])
@pytest.mark.parametrize("sides", [(32, 32), (32, 48)])
def test_a_plain_box_gives_the_resized_and_cropped_pixels(
    mode: CropMode, interpolation: Interpolation, size: tuple[int, int], sides: tuple[int, int]
) -> None:
    """All but the rounding of the box: single taps at the end of a filter may fall away."""
    spec, image = specification(mode, interpolation, size=sides), noise(*size).filter(ImageFilter.GaussianBlur(2))
    box = plain_box(*size, spec)
    assert box is not None
    found = np.asarray(image.resize((spec.width, spec.height), FILTERS[interpolation], box=box))
    difference = np.abs(found.astype(int) - resize_and_crop(image, spec))
    assert difference.max() <= 3
    assert difference.mean() < 0.2


def test_there_is_no_plain_box_where_a_border_is_added() -> None:
    assert plain_box(90, 70, specification("border")) is None

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cnn_tl.core.errors import BadImageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views.augment import Augmentation, augment
from cnn_tl.data.views.image_source import pack, read_source, row_bytes, row_side, row_sides, source_side, unpack

SPEC = Preprocessing(64, 64, "bicubic", 0.875, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CROPS = Augmentation(0.5, flip=False, color=0)


def scene(width: int, height: int) -> Image.Image:
    """Return an image with edges and slopes, as a photograph has, and no noise."""
    y, x = np.mgrid[:height, :width]
    disc = (x - width / 3) ** 2 + (y - height / 2) ** 2 < (min(width, height) / 4) ** 2
    pixels = np.stack([255 * x / width, 255 * y / height, np.where(disc, 220, 40)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("size", "scale_min", "side"),
    [((64, 64), 1, 64), ((64, 64), 0.5, 96), ((224, 224), 0.5, 320), ((50, 31), 0.08, 160)],
)
def test_the_smallest_crop_fills_the_input(size: tuple[int, int], scale_min: float, side: int) -> None:
    spec = Preprocessing(*size, "bicubic", 1, "center", SPEC.mean, SPEC.std)
    assert source_side(spec, Augmentation(scale_min, flip=True, color=0)) == side
    assert side * side * scale_min >= size[0] * size[1]


@pytest.mark.parametrize("size", [(96, 96), (30, 12), (192, 48)])
def test_a_small_image_stays_as_it_is(size: tuple[int, int]) -> None:
    image = scene(*size)
    np.testing.assert_array_equal(read_source(encoded(image), SPEC, 96), image)


@pytest.mark.parametrize("size", [(97, 96), (500, 375), (375, 500), (1, 20_000), (20_000, 1), (3, 9_000)])
def test_a_large_one_keeps_its_proportions(size: tuple[int, int]) -> None:
    spec = Preprocessing(64, 64, "bicubic", 1, "center", SPEC.mean, SPEC.std, min_side=1)
    source = read_source(encoded(scene(*size)), spec, 96)
    assert source.mode == "RGB"
    assert source.width * source.height <= 96 * 96
    if min(size) > 90:
        assert source.width * source.height > 0.95 * 96 * 96
        assert source.width / source.height == pytest.approx(size[0] / size[1], rel=0.02)


def test_a_view_looks_like_one_of_the_whole_image() -> None:
    image = scene(600, 400)
    source = read_source(encoded(image), SPEC, source_side(SPEC, CROPS))
    for seed in range(20):
        whole, kept = (augment(one, SPEC, CROPS, seed).astype(int) for one in (image, source))
        assert np.abs(whole - kept).mean() < 2, "a shift by one pixel of the network's input is about 4"


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(scene(1600, 1200), "JPEG")
    sizes: list[tuple[int, int]] = []
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *rest: (sizes.append(self.size), resize(self, *rest))[1])
    read_source(data, SPEC, 96)
    assert sizes == [(400, 300)]


def test_limits_are_those_of_the_specification() -> None:
    with pytest.raises(BadImageError, match=r"data\.min_side"):
        read_source(encoded(scene(30, 3)), SPEC, 96)


@pytest.mark.parametrize("side", [32, 96, 100, 320])
def test_row_sides(side: int) -> None:
    sides = row_sides(side)
    assert sides == sorted(set(sides))
    assert sides[-1] == side
    assert all(row_side(one, one, side) == one for one in sides)
    assert row_side(1, 1, side) == sides[0]
    assert row_side(4 * side, side // 4, side) == side


@pytest.mark.parametrize("size", [(96, 96), (31, 33), (1, 1), (9216, 1), (300, 7)])
def test_a_row_is_the_image(size: tuple[int, int]) -> None:
    image = scene(*size)
    row = pack(image, 96)
    assert row.dtype == np.uint8
    assert row.shape == (row_bytes(row_side(*size, 96)),)
    back = unpack(row)
    assert back.size == size
    np.testing.assert_array_equal(back, image)
    np.testing.assert_array_equal(pack(back, 96), row)


def test_the_rest_of_a_row_is_zero() -> None:
    assert not pack(Image.new("RGB", (2, 3), "white"), 96)[8 + 18 :].any()

"""Images that lie over each other in a known way."""

from __future__ import annotations

import numpy as np
import pytest
from doctor.twins.pictures import picture
from PIL import Image

from cnn_tl.doctor.twins.alignment import refine, warped
from cnn_tl.doctor.twins.search import GRID, search
from cnn_tl.doctor.twins.similarity import MEASURES, compared, planes


def thumbnail(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))[None]


def luminance(image: Image.Image) -> np.ndarray:
    return planes(thumbnail(image))[:, 0]


def window(number: int, left: float, upper: float, size: float, angle: float = 0) -> Image.Image:
    """Return a part of a picture of 192 px, turned about its own centre by degrees."""
    image = picture(number, 192)
    centre = (left + size / 2, upper + size / 2)
    turned = image.rotate(angle, Image.Resampling.BICUBIC, center=centre)
    return turned.crop(tuple(round(edge) for edge in (left, upper, left + size, upper + size)))


@pytest.mark.parametrize("number", range(4))
def test_a_shift_is_found_to_the_pixel(number: int) -> None:
    first, second = window(number, 30, 30, 128), window(number, 30 + 16, 30 - 8, 128)  # 4 px per pixel of the grid
    found = search(luminance(first), luminance(second))
    assert not found.mirrored[0]
    np.testing.assert_allclose(found.maps[0], [[1, 0, -4], [0, 1, 2]], atol=1e-6)


@pytest.mark.parametrize("larger", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_scale_and_a_mirror_are_found_and_refined(larger: bool, mirrored: bool) -> None:
    whole, part = window(1, 20, 20, 150), window(1, 20 + 25, 20 + 15, 115)
    if mirrored:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    first, second = (part, whole) if larger else (whole, part)
    found = search(luminance(first), luminance(second))
    assert found.mirrored[0] == mirrored
    seconds = luminance(second)[..., ::-1] if mirrored else luminance(second)
    maps = refine(luminance(first), seconds, found.maps)
    scale = 115 / 150 if larger else 150 / 115
    np.testing.assert_allclose(maps[0, :, :2], scale * np.eye(2), atol=0.03)


def test_a_small_rotation_is_refined() -> None:
    first, second = luminance(window(2, 30, 30, 120)), luminance(window(2, 30, 30, 120, angle=5))
    maps = refine(first, second, search(first, second).maps)
    angle = np.degrees(np.arctan2(maps[0, 1, 0], maps[0, 0, 0]))
    assert abs(abs(angle) - 5) < 0.5
    np.testing.assert_allclose(maps[0, :, 2], 0, atol=0.3)


def test_refining_never_lowers_the_correlation() -> None:
    first = np.concatenate([luminance(picture(n)) for n in range(20)])
    second = np.concatenate([luminance(picture(n + 100)) for n in range(20)])
    maps = search(first, second).maps

    def merits(maps: np.ndarray) -> np.ndarray:
        seen, exists = warped(second[:, None], maps)
        found = [
            np.arctanh(np.corrcoef(a[e], b[e])[0, 1]) * np.sqrt(e.sum())
            for a, b, e in zip(first.reshape(20, -1), seen[:, 0], exists, strict=True)
        ]
        return np.array(found)

    before, after = merits(maps), merits(refine(first, second, maps))
    assert (after >= before - 0.05).all()
    assert (after > before + 0.05).sum() > 10


def test_warping_by_a_shift_moves_pixels_and_marks_what_is_missing() -> None:
    images = np.arange(GRID * GRID, dtype=np.float32).reshape(1, 1, GRID, GRID)
    seen, exists = warped(images, np.array([[[1, 0, 3], [0, 1, -2]]], np.float32))
    seen, exists = seen.reshape(GRID, GRID), exists.reshape(GRID, GRID)
    np.testing.assert_allclose(seen[2:, : GRID - 4], images[0, 0, : GRID - 2, 3 : GRID - 1], atol=0.05)
    assert exists[2:, : GRID - 3].all()
    assert not exists[:2].any()
    assert not exists[:, GRID - 3 :].any()


def measures(first: Image.Image, second: Image.Image) -> dict[str, float]:
    both = np.concatenate([thumbnail(first), thumbnail(second)])
    found = compared(both, np.array([[0, 1]])).measures[0]
    return dict(zip(MEASURES, found.tolist(), strict=True))


def test_an_image_is_like_itself_and_unlike_another() -> None:
    same, other = measures(picture(0), picture(0)), measures(picture(0), picture(1))
    assert min(same["luminance"], same["detail"], same["local"], same["colour"], same["overlap"]) > 0.9
    assert max(same["tint"], same["distortion"], same["light"]) < 0.01
    assert max(other["detail"], other["local"]) < 0.7


def test_gain_and_bias_change_the_light_and_not_the_likeness() -> None:
    darker = picture(3).point(lambda value: 0.6 * value + 20)
    found = measures(picture(3), darker)
    assert found["luminance"] > 0.97
    assert found["detail"] > 0.85
    assert found["light"] > 0.03
    swapped = Image.merge("RGB", picture(3).split()[::-1])
    assert measures(picture(3), swapped)["colour"] < 0.5


def test_the_overlap_of_a_part_is_whole_whichever_comes_first() -> None:
    whole, part = window(4, 20, 20, 150), window(4, 45, 30, 115)
    assert measures(whole, part)["overlap"] > 0.9
    assert measures(part, whole)["overlap"] > 0.9


def test_blocks_give_what_pairs_alone_give() -> None:
    thumbnails = np.concatenate([thumbnail(picture(n, 64)) for n in range(14)])
    pairs = np.array([(a, b) for a in range(14) for b in range(a + 1, 14)])
    together = compared(thumbnails, pairs)
    assert len(pairs) > 64
    alone = compared(thumbnails, pairs[70:71])
    np.testing.assert_allclose(together.measures[70], alone.measures[0], atol=1e-4)
    np.testing.assert_allclose(together.maps[70], alone.maps[0], atol=1e-3)

"""Twins in generated folders, whose twins are known."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from doctor.twins.pictures import collection_of, picture
from PIL import Image, ImageEnhance

from cnn_tl.doctor.twins import Twins, find_twins


def jpeg(image: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def changed(image: Image.Image, kind: str) -> Image.Image | bytes:
    width, height = image.size
    match kind:
        case "mirrored":
            return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        case "rotated":
            return image.rotate(3, Image.Resampling.BICUBIC)
        case "cropped":
            return image.crop((round(0.07 * width), round(0.08 * height), round(0.92 * width), round(0.93 * height)))
        case "recoloured":
            return ImageEnhance.Brightness(image).enhance(1.3)
        case "rescaled":
            return image.resize((width // 2, height // 2), Image.Resampling.BICUBIC)
        case _:
            return jpeg(image, 40)


CHANGES = ("mirrored", "rotated", "cropped", "recoloured", "rescaled", "recompressed")


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Twins, dict[tuple[int, int], str]]:
    """Return what is found among 150 images and two twins of each kind, and the kind of each planted pair."""
    images: dict[str, Image.Image | bytes] = {f"train/a/{n:03}.png": picture(n) for n in range(150)}
    truth = {}
    for number in range(2 * len(CHANGES)):
        kind = CHANGES[number % len(CHANGES)]
        truth[(number, len(images))] = kind
        images[f"val/a/{number}.{'jpg' if kind == 'recompressed' else 'png'}"] = changed(picture(number), kind)
    return find_twins(collection_of(tmp_path_factory.mktemp("planted"), images)), truth


def test_planted_twins_are_verified_and_nothing_else(planted: tuple[Twins, dict[tuple[int, int], str]]) -> None:
    twins, truth = planted
    assert {tuple(pair) for pair in twins.pairs[twins.verified].tolist()} == set(truth)
    assert twins.calibrated
    assert twins.precision is not None
    assert 0.95 <= twins.precision <= 1


def test_kinds_are_told_apart(planted: tuple[Twins, dict[tuple[int, int], str]]) -> None:
    twins, truth = planted
    kinds = dict(zip(map(tuple, twins.pairs.tolist()), twins.kinds, strict=True))
    assert {pair: kinds[pair] for pair in truth} == truth


def test_candidates_below_the_threshold_stay_in_order(planted: tuple[Twins, dict[tuple[int, int], str]]) -> None:
    twins, truth = planted
    assert len(twins.pairs) > 5 * len(truth)
    assert (np.diff(twins.scores) <= 0).all()
    assert (twins.verified == (twins.scores >= twins.threshold)).all()
    assert (twins.pairs[:, 0] < twins.pairs[:, 1]).all()
    assert len(np.unique(twins.pairs, axis=0)) == len(twins.pairs)


def test_the_same_seed_finds_the_same(tmp_path: Path) -> None:
    collection = collection_of(tmp_path, {f"a/{n}.png": picture(n, 48) for n in range(30)})
    one, two = find_twins(collection), find_twins(collection)
    assert (one.pairs == two.pairs).all()
    assert (one.scores == two.scores).all()
    assert not one.verified.any()
    assert one.precision is None


def test_equal_files_and_equal_pixels_are_told_from_near_ones(tmp_path: Path) -> None:
    image = picture(0)
    files: dict[str, Image.Image | bytes] = {f"a/{n}.png": picture(n) for n in range(4)}
    files |= {"a/copy.png": picture(0), "b/copy.bmp": image, "b/other.jpg": jpeg(image, 60)}
    twins = find_twins(collection_of(tmp_path, files))
    found = {tuple(pair): kind for pair, kind in zip(twins.pairs[twins.verified].tolist(), twins.kinds, strict=False)}
    assert found == {(0, 4): "equal bytes", (0, 5): "equal pixels", (0, 6): "recompressed"}
    assert twins.groups.tolist() == [0, -1, -1, -1, 0, 0, 0]
    assert not twins.calibrated  # too few images
    assert twins.precision is None


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images(tmp_path: Path, count: int) -> None:
    twins = find_twins(collection_of(tmp_path, {f"a/{n}.png": picture(n) for n in range(count)}))
    assert not twins.verified.any()
    assert twins.groups.tolist() == [-1] * count
    assert len(twins.pairs) == count * (count - 1) // 2


def test_two_images_that_are_twins(tmp_path: Path) -> None:
    twins = find_twins(collection_of(tmp_path, {"a/0.png": picture(0), "a/1.png": changed(picture(0), "mirrored")}))
    assert twins.kinds == ("mirrored",)
    assert twins.groups.tolist() == [0, 0]


def test_all_images_equal_is_one_group_without_all_pairs(tmp_path: Path) -> None:
    twins = find_twins(collection_of(tmp_path, {f"a/{n}.png": picture(0, 40) for n in range(60)}))
    assert len(twins.pairs) == 59
    assert set(twins.kinds) == {"equal bytes"}
    assert (twins.groups == 0).all()


def test_blank_images_are_equal_or_nothing(tmp_path: Path) -> None:
    def blank(grey: int, side: int = 40) -> Image.Image:
        return Image.new("RGB", (side, side), (grey,) * 3)

    files: dict[str, Image.Image | bytes] = {f"a/{n}.png": picture(n, 40) for n in range(30)}
    files |= {
        "a/white.png": blank(255),
        "a/white.bmp": blank(255),
        "a/black.png": blank(0),
        "a/large.png": blank(0, 50),
    }
    files |= {"a/nearly.png": blank(254), "a/pixel.png": blank(9, 1)}
    twins = find_twins(collection_of(tmp_path, files))
    assert twins.pairs[twins.verified].tolist() == [[30, 31]]
    assert twins.kinds[0] == "equal pixels"
    assert (twins.pairs[1:] < 30).all()


def test_grey_images(tmp_path: Path) -> None:
    files: dict[str, Image.Image | bytes] = {f"a/{n:02}.png": picture(n, 40, channels=1) for n in range(60)}
    files["a/twin.png"] = changed(picture(7, 40, channels=1), "cropped")
    twins = find_twins(collection_of(tmp_path, files))
    assert twins.pairs[twins.verified].tolist() == [[7, 60]]


def test_images_of_one_kind_are_no_twins(tmp_path: Path) -> None:
    """Discs on a white ground, a little different each: as like each other as digits are."""

    def disc(number: int) -> Image.Image:
        rng = np.random.default_rng(number)
        y, x = np.mgrid[:40, :40]
        wide, high, middle_x, middle_y = 10 + rng.normal(0, 1.5), 10 + rng.normal(0, 1.5), *rng.normal(20, 1.5, 2)
        inside = ((x - middle_x) / wide) ** 2 + ((y - middle_y) / high) ** 2
        return Image.fromarray((255 / (1 + np.exp(8 * (1 - inside)))).astype(np.uint8)).convert("RGB")

    twins = find_twins(collection_of(tmp_path, {f"a/{n:03}.png": disc(n) for n in range(120)}))
    assert twins.verified.sum() <= 2
    assert len(twins.pairs) > 300

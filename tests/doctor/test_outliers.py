"""Foreign, damaged and misshapen images are found, and nothing else; odd sets do not break the screen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_collections import Made

from cnn_tl.doctor import foreign
from cnn_tl.doctor.foreign import strangeness
from cnn_tl.doctor.outliers import KINDS, VALUES, Outlier, find_outliers
from cnn_tl.doctor.robust import excess


def by_kind(found: list[Outlier]) -> dict[str, set[int]]:
    kinds: dict[str, set[int]] = {}
    for one in found:
        kinds.setdefault(one.kind, set()).add(one.index)
    return kinds


def test_few_of_a_clean_set_stand_out() -> None:
    found = find_outliers(Made(each=300).collection())
    assert len({one.index for one in found}) <= 6  # 1%


@pytest.mark.parametrize("spread", [True, False], ids=["in all classes", "in one class"])
def test_foreign_images_come_first_even_if_they_resemble_one_another(spread: bool) -> None:
    made = Made(classes=("a", "b", "c"), each=100)
    planted = np.arange(0, 300, 50) if spread else np.arange(6)
    centre = np.random.default_rng(5).gamma(1.0, 1.0, 64)
    noise = np.random.default_rng(6).gamma(8.0, 1 / 8, (len(planted), 64))  # more alike than the images of a class
    made.features[planted] = centre * noise
    found = find_outliers(made.collection())
    assert {one.index for one in found[: len(planted)]} == set(planted.tolist())
    assert {one.kind for one in found[: len(planted)]} == {"foreign"}


def test_a_mislabelled_image_is_unlike_its_class_but_not_foreign() -> None:
    made = Made()
    made.features[made.labels == 1, :32] = 0
    made.features[made.labels == 0, 32:] = 0
    made.features[3] = made.features[61]
    assert by_kind(find_outliers(made.collection())) == {"unlike its class": {3}}


def test_each_damage_is_found_and_named() -> None:
    made = Made(each=100)
    pixels = made.thumbnails
    made.thumbnails[:] = np.clip(pixels, 20, 235)
    pixels[10] = pixels[10] // 6
    pixels[20] = 255 - (255 - pixels[20]) // 6
    pixels[30] = 77
    pixels[40] = np.where(pixels[40, :, :, :1] > np.median(pixels[40]), 113, 107)
    pixels[50] = 240
    pixels[50, 30:34, 30:34] = pixels[51, 30:34, 30:34]
    slope = np.linspace(40, 180, 64).astype(np.uint8)
    pixels[60] = np.broadcast_to(slope[:, None, None], (64, 64, 3))
    for index, size in ((70, (1200, 100)), (80, (90, 1100)), (90, (24, 18))):
        made.headers[index] = replace(made.headers[index], width=size[0], height=size[1])
    found = find_outliers(made.collection())
    kinds = by_kind(found)
    assert kinds["one colour"] == {30}
    assert found[0].index == 30
    assert 10 in kinds["dark"]
    assert 20 in kinds["bright"]
    assert 40 in kinds["low contrast"]
    assert 50 in kinds["nearly empty"]
    assert 60 in kinds["blurred"]
    assert (kinds["wide"], kinds["tall"], kinds["tiny"]) == ({70}, {80}, {90})
    damaged = {one.index for one in found if one.kind != "foreign"}  # 1% of the features may seem foreign
    assert damaged == {10, 20, 30, 40, 50, 60, 70, 80, 90}
    assert {one.kind for one in found} <= set(KINDS)
    assert set(KINDS) == set(VALUES)


def test_a_dark_half_of_a_set_is_no_outlier() -> None:
    made = Made(each=100)
    made.thumbnails[::2] //= 16
    assert "dark" not in by_kind(find_outliers(made.collection()))
    assert "bright" not in by_kind(find_outliers(made.collection()))


def test_a_class_of_one_colour_shows_that() -> None:
    made = Made(each=60)
    made.thumbnails[:60] = 90
    made.thumbnails[70] = 90
    made.features[70] = np.random.default_rng(5).gamma(1.0, 1.0, 64)
    found = find_outliers(made.collection())
    assert by_kind(found)["one colour"] == {70}
    assert [one.kind for one in found if one.index == 70] == ["one colour"]  # and not foreign too


@pytest.mark.parametrize("each", [1, 5, 10])
def test_few_images_are_not_accused(each: int) -> None:
    assert find_outliers(Made(classes=("a", "b"), each=each).collection()) == []


def test_one_image_of_one_class() -> None:
    assert find_outliers(Made(classes=("a",), each=1).collection()) == []


def test_equal_images_are_not_accused() -> None:
    made = Made()
    made.features[:] = made.features[0]
    made.thumbnails[:] = made.thumbnails[0]
    assert find_outliers(made.collection()) == []


def test_broken_numbers_accuse_no_other_image() -> None:
    made = Made()
    made.features[4] = np.nan
    made.features[5] = np.inf
    made.headers[6] = replace(made.headers[6], width=0, height=0)
    assert find_outliers(made.collection()) == []


def test_a_class_is_its_own_standard() -> None:
    values = np.concatenate([np.linspace(0, 1, 50), np.linspace(10, 11, 50)])
    labels = np.repeat([0, 1], 50)
    values[0] = 10.5  # usual in the set, not in its class: the set has both
    assert excess(values, labels, smallest=0.1)[0] < 2
    values[0] = 100.0
    assert excess(values, labels, smallest=0.1)[0] > 10


def test_large_classes_are_compared_with_some_of_their_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign, "_REFERENCES", 100)
    made = Made(each=600)
    made.features[17] = np.random.default_rng(5).gamma(1.0, 1.0, 64)
    strange = strangeness(made.features, made.labels, 2)
    assert int(np.nanargmax(strange.score)) == 17
    assert np.isfinite(strange.own).all()

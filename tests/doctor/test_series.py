"""Frames, patients and photos of one moment are found; plain numbers are not blamed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_collections import Made

from cnn_tl.data.groups import groups_by_pattern
from cnn_tl.doctor.series import Series, below_class, find_series


def alike(made: Made, group_of: np.ndarray) -> None:
    """Make the features of the images of a group resemble one another."""
    random = np.random.default_rng(9)
    own = random.gamma(2.0, 0.5, (int(group_of.max()) + 1, made.features.shape[1]))
    noise = random.gamma(20.0, 1 / 20, made.features.shape)
    made.features[:] = own[group_of] * noise


def agrees_with_its_pattern(made: Made, found: Series) -> bool:
    assert found.pattern is not None
    below = {path: below_class(path, made.classes[label]) for path, label in zip(made.files, made.labels, strict=True)}
    named = groups_by_pattern(found.pattern, below)
    return all(
        found.names[group] == named[path]
        for path, group in zip(made.files, found.groups.tolist(), strict=True)
        if group >= 0
    )


@pytest.mark.parametrize(
    "name",
    [
        "film{group:02}_frame_{frame:04}.jpg",
        "{group:02}-{frame}.jpg",
        "holiday {group} b_{frame:03}.png",
        "run{group:02}/{frame:05}.jpg",
        "x/y{group:02}/{frame:05}.jpg",
        "{group:03}{frame:01}.jpg",
        "n{group}{letter}.jpg",
        "shot{group}.{frame:04}.png",
    ],
)
def test_frames_of_films_are_found_by_names(name: str) -> None:
    made = Made()
    frames = 6
    group = np.arange(120) // frames
    made.files = [
        f"{split}/{made.classes[label]}/" + name.format(group=at // frames, frame=at % frames, letter="abcdef"[at % 6])
        for at, (label, split) in enumerate(zip(made.labels, made.splits, strict=True))
    ]
    alike(made, group)
    found = find_series(made.collection())
    assert found is not None
    assert len(found.names) == 20
    assert found.crossing == len(
        {g for g in range(20) if len({made.splits[at] for at in np.flatnonzero(group == g)}) > 1}
    )
    assert found.crossing > 10
    assert found.alike > 0.9
    assert agrees_with_its_pattern(made, found)
    assert [len(set(found.groups[group == g])) for g in range(20)] == [1] * 20
    assert "20 series" in found.sentence()


def test_equal_names_of_random_images_are_no_series() -> None:
    made = Made()
    made.files = [f"{made.classes[label]}/x{at // 6:02}_{at % 6}.jpg" for at, label in enumerate(made.labels)]
    assert find_series(made.collection()) is None


def test_plain_numbers_are_no_series() -> None:
    assert find_series(Made(each=300).collection()) is None


@pytest.mark.parametrize("name", ["patient_{id:03}_{side}.png", "Subject{id}/{side}.png", "x-person {id} {side}.jpg"])
def test_names_that_say_what_they_are_need_no_further_evidence(name: str) -> None:
    made = Made(each=20)
    made.files = [
        f"{made.classes[label]}/" + name.format(id=at // 2, side=("left", "right")[at % 2])
        for at, label in enumerate(made.labels)
    ]
    found = find_series(made.collection())
    assert found is not None
    assert len(found.names) == 20
    assert agrees_with_its_pattern(made, found)


def test_one_image_a_person_is_no_series() -> None:
    made = Made(each=20)
    made.files = [f"{made.classes[label]}/person{at % 20}.png" for at, label in enumerate(made.labels)]
    assert find_series(made.collection()) is None


def test_photos_of_the_same_seconds_are_a_series_without_a_pattern() -> None:
    made = Made()
    group = np.arange(120) // 3
    alike(made, group)
    made.headers = [
        replace(header, camera="Fold 1", taken=f"2026:11:{1 + g // 24:02} {g % 24:02}:00:0{at % 3}")
        for at, (header, g) in enumerate(zip(made.headers, group.tolist(), strict=True))
    ]
    found = find_series(made.collection())
    assert found is not None
    assert found.pattern is None
    assert len(found.names) == 40
    assert "seconds" in found.sentence()


def test_photos_of_the_same_seconds_of_different_things_are_not() -> None:
    made = Made()
    made.headers = [
        replace(header, taken=f"2026:11:01 {at // 3 % 24:02}:0{at // 72}:0{at % 3}")
        for at, header in enumerate(made.headers)
    ]
    assert find_series(made.collection()) is None


@pytest.mark.parametrize("classes", [("a",), ("a", "b")])
def test_few_or_equal_images(classes: tuple[str, ...]) -> None:
    assert find_series(Made(classes=classes, each=1).collection()) is None
    made = Made(classes=classes, each=20)
    made.features[:] = 1
    made.features[0] = np.nan
    assert find_series(made.collection()) is None


@pytest.mark.parametrize(
    ("path", "below"),
    [("a/1.jpg", "1.jpg"), ("train/a/x/1.jpg", "x/1.jpg"), ("a/a/1.jpg", "1.jpg"), ("b/1.jpg", "1.jpg")],
)
def test_the_path_below_the_class_folder(path: str, below: str) -> None:
    assert below_class(path, "a") == below

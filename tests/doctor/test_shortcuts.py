"""What tells the class but should not is found, and colours or chance are not blamed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_collections import Made

from cnn_tl.doctor.shortcuts import Shortcut, find_shortcuts
from cnn_tl.doctor.telling import best_rule, told

CLASSES = ("a", "b", "c", "d", "e")


def findings(made: Made) -> dict[str, Shortcut]:
    return {f"{one.of} {one.attribute}": one for one in find_shortcuts(made.collection()) if one.found}


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_blamed_by_chance(seed: int) -> None:
    made = Made(CLASSES, each=40, seed=seed)
    random = np.random.default_rng(seed)
    made.headers = [
        replace(header, width=int(random.integers(200, 900)), quality=int(random.integers(70, 95)))
        for header in made.headers
    ]
    assert findings(made) == {}


def test_one_class_of_another_format() -> None:
    made = Made(CLASSES, each=30)
    for index in np.flatnonzero(made.labels == 2):
        made.headers[index] = replace(made.headers[index], format="PNG", quality=None)
    found = findings(made)
    assert set(found) == {"class format", "class JPEG quality"}
    assert found["class format"].group == "c"
    assert "All 30 images of class c have format PNG, none of the 120 others." in found["class format"].sentence()
    assert "do not have a JPEG quality" in found["class JPEG quality"].rule
    assert found["class format"].recall == 1.0
    assert "the network's features: 91%" in found["class format"].sentence(0.912)


def test_a_sentence_holds_no_control_characters() -> None:
    made = Made(("a\x1b[31m", "b"), each=30)
    for index in np.flatnonzero(made.labels == 0):
        made.headers[index] = replace(made.headers[index], camera="One\x1b]0;x\x07")
    sentence = findings(made)["class camera"].sentence()
    assert "class a\\x1b[31m" in sentence
    assert "camera One\\x1b]0;x" in sentence
    assert sentence.isprintable()


@pytest.mark.parametrize(
    ("change", "attribute"),
    [
        ({"quality": 60}, "JPEG quality"),
        ({"width": 640, "height": 480}, "size"),
        ({"width": 300, "height": 400}, "shape"),
        ({"mode": "L"}, "colour mode"),
        ({"camera": "Fold 1"}, "camera"),
    ],
)
def test_one_class_with_another_header(change: dict[str, object], attribute: str) -> None:
    made = Made(CLASSES, each=30)
    for index in np.flatnonzero(made.labels == 4):
        made.headers[index] = replace(made.headers[index], **change)
    found = findings(made)
    assert found[f"class {attribute}"].group == "e"
    assert not found[f"class {attribute}"].content


def test_one_bright_class() -> None:
    made = Made(CLASSES, each=60)
    own = made.labels == 1
    made.thumbnails[own] = np.clip(made.thumbnails[own] * 1.45, 0, 255).astype(np.uint8)
    found = findings(made)["class light"]
    assert (found.group, found.content) == ("b", True)
    assert found.sentence().endswith("Is that what the network should look at, or how these images were taken?")


def test_a_class_that_was_brightened_afterwards_shows_in_its_highlights() -> None:
    made = Made(CLASSES, each=60)
    shades = np.random.default_rng(1).uniform(0, 255, made.thumbnails.shape).clip(0, 250)
    brightest = np.random.default_rng(2).uniform(0.88, 1, (300, 1, 1, 1))  # scenes of every brightness
    made.thumbnails = (shades * brightest).astype(np.uint8)
    assert findings(made) == {}
    own = made.labels == 1
    made.thumbnails[own] = np.clip(made.thumbnails[own] * 1.2, 0, 255).astype(np.uint8)
    found = findings(made)["class clipped highlights"]
    assert found.group == "b"
    assert found.sentence().startswith("Clipped highlights alone tell class b from the others")


@pytest.mark.parametrize("logo", [False, True])
def test_a_coloured_border_or_logo_of_one_class(logo: bool) -> None:
    made = Made(CLASSES, each=30)
    own = np.flatnonzero(made.labels == 3)
    if logo:
        made.thumbnails[own, 54:, 50:] = (200, 30, 30)
        place = "class bottom right corner"
    else:
        made.thumbnails[own, :, :3] = (30, 30, 200)
        place = "class left edge"
    assert findings(made)[place].group == "d"


def test_a_slight_tendency_of_light_is_not_blamed() -> None:
    made = Made(CLASSES, each=60)
    own = made.labels == 1
    made.thumbnails[own] = np.clip(made.thumbnails[own] * 1.08, 0, 255).astype(np.uint8)
    assert findings(made) == {}


def test_drawings_differ_in_how_much_is_drawn() -> None:
    made = Made(CLASSES, each=60)
    made.thumbnails[:] = 0
    for index, label in enumerate(made.labels.tolist()):
        made.thumbnails[index, 10 : 20 + 4 * label + index % 7, 28:34] = 255
    assert findings(made) == {}


def test_another_size_of_the_validation_images() -> None:
    made = Made(CLASSES, each=30)
    for index, split in enumerate(made.splits):
        if split == "val":
            made.headers[index] = replace(made.headers[index], width=800, height=600)
    found = findings(made)
    assert set(found) == {"split size"}
    assert set(found["split size"].groups) == {"train", "val"}
    assert found["split size"].to_json()["of"] == "split"


def test_attributes_count_together_only_if_none_does_alone() -> None:
    made = Made(each=300)
    random = np.random.default_rng(0)
    shift = np.where(made.labels == 0, 0.15, -0.15)
    width, quality, height = (np.array([0.5, 0.5, 0.5])[:, None] + shift > random.random((3, 600))).astype(int)
    made.headers = [
        replace(header, width=400 + 10 * int(w), quality=80 + int(q), camera=("x", "y")[int(h)])
        for header, w, q, h in zip(made.headers, width, quality, height, strict=True)
    ]
    assert set(findings(made)) <= {"class all file attributes together", "class camera", "class size", "class shape"}
    assert find_shortcuts(made.collection())[0].found


@pytest.mark.parametrize("each", [1, 3])
def test_few_images_prove_nothing(each: int) -> None:
    made = Made(CLASSES, each=each)
    made.headers[0] = replace(made.headers[0], format="PNG", quality=None)
    assert find_shortcuts(made.collection()) == [] or findings(made) == {}


def test_one_class_or_equal_images_or_missing_numbers() -> None:
    assert [one for one in find_shortcuts(Made(("a",), each=40).collection()) if one.of == "class"] == []
    made = Made(each=30)
    made.thumbnails[:] = 7
    made.bytes = [9] * 60
    assert find_shortcuts(made.collection()) == []
    made.headers = [replace(header, width=0, height=0, quality=None, taken="garbage") for header in made.headers]
    assert findings(made) == {}


def test_the_prediction_is_out_of_fold() -> None:
    codes = np.arange(200) % 97  # many bins, nothing to learn
    labels = np.random.default_rng(0).integers(0, 2, 200)
    result = told([codes], labels, 2, comparisons=1)
    assert result is not None
    assert abs(result.accuracy - 0.5) < 0.15
    assert (result.sure < 0.1).all()


def test_the_best_rule_is_the_best_threshold() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, np.nan])
    inside = np.array([False, False, True, True, True, True])
    assert best_rule(values, inside) == (True, 2.0, 3, 0)
    assert best_rule(values, ~inside) == (False, 3.0, 2, 0)
    assert best_rule(np.ones(6), inside) is None

"""The features of all images of a recipe: cached, with groups and without broken images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from cnn_tl.advising.embedded import Embedded, embedded
from cnn_tl.core.progress import Observer
from cnn_tl.doctor.collecting import collected
from cnn_tl.recipe import Recipe
from cnn_tl.recipe.resolved import FreezeRecipe


@pytest.fixture
def recipe(tmp_path: Path, make_images: Callable[..., Path], tiny_weights: Path) -> FreezeRecipe:
    folder = make_images(tmp_path / "photos", {"a": 6, "b": 6})
    tree = {
        "mode": "freeze",
        "data": {"path": str(folder)},
        "model": {"name": "test_resnet", "weights": str(tiny_weights), "image_size": 64},
        "run": {"device": "cpu"},
    }
    return cast(FreezeRecipe, Recipe.model_validate(tree).resolve())


def found_of(recipe: FreezeRecipe) -> Embedded:
    return embedded(recipe, Observer())


def test_features_are_those_of_the_doctor_and_cached(recipe: FreezeRecipe) -> None:
    first = found_of(recipe)
    assert first.computed == len(first.images) == len(first.features) == 12
    again = found_of(recipe)
    assert again.computed == 0
    assert np.array_equal(first.features, again.features)
    with collected(recipe, Observer()) as theirs:
        assert {one.path: row.tobytes() for one, row in zip(first.images, first.features, strict=True)} == {
            one.path: row.tobytes()
            for one, row in zip(theirs.collection.images, theirs.collection.features, strict=True)
        }


def test_labels_and_equal_files(recipe: FreezeRecipe) -> None:
    folder = recipe.data.folder
    one = next(iter(sorted(folder.rglob("*.png"))))
    (one.parent / "again.png").write_bytes(one.read_bytes())
    (one.parent / "broken.png").write_bytes(one.read_bytes()[:40])
    found = found_of(recipe)
    assert len(found.images) == 13
    assert [found.manifest.classes[label] for label in found.labels] == [
        Path(image.path).parts[-2] for image in found.images
    ]
    assert found.groups is not None
    copies = [place for place, image in enumerate(found.images) if Path(image.path).name in (one.name, "again.png")]
    same = [place for place in copies if Path(found.images[place].path).parent.name == one.parent.name]
    assert len(same) == 2
    assert found.groups[same[0]] == found.groups[same[1]]

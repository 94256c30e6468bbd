"""What a doctor is asked to examine: a data folder, or the data of a run together with the run's answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.core.progress import Observer
from cnn_tl.data.manifest import Manifest
from cnn_tl.doctor.leaks import LeakedAccuracy, leaked_accuracy
from cnn_tl.inference.loading import load
from cnn_tl.recipe import Recipe, ResolvedRecipe
from cnn_tl.recipe.resolved import FreezeRecipe
from cnn_tl.training.run_answers import answers_of_run
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.setup import with_found_paths


@dataclass(frozen=True)
class Subject:
    """What is examined.

    Attributes:
        recipe: whose data, splits and backbone are used.
        run: the run, if one was given.
        groups: image -> group as the run has found them, so that its splits are the same again.
    """

    recipe: FreezeRecipe
    run: RunFolder | None = None
    groups: Mapping[str, str] = field(default_factory=dict)


def subject_of_data(recipe: ResolvedRecipe) -> Subject:
    """Return the data folder of a recipe as `train` would read it, with the features of its backbone."""
    return Subject(features_only(recipe))


def is_run(path: Path) -> bool:
    """Return whether a path is a run folder rather than a data folder."""
    folder = RunFolder(path)
    return folder.recipe.is_file() or folder.never_began


def subject_of_run(path: Path, *, device: str | None = None, workers: int | None = None) -> Subject:
    """Return the data of a run, with the splits, corrections and the pretrained backbone of its recipe.

    Args:
        device, workers: in place of those of its recipe.

    Raises:
        ArtefactError: it has not begun, or its recipe or manifest is damaged.
    """
    folder = RunFolder(path)
    if not folder.manifest.is_file():
        raise ArtefactError(f"{printable(path)} has not begun yet; finish it first: {folder.resume_command}")
    groups = Manifest.from_json(files.read_json(folder.manifest)).groups()
    recipe = with_found_paths(folder.own_recipe(), folder)
    changed = {key: value for key, value in (("device", device), ("workers", workers)) if value is not None}
    recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update=changed)})
    return Subject(features_only(recipe), folder, groups)


def features_only(recipe: ResolvedRecipe, *, own_backbone: bool = True) -> FreezeRecipe:
    """Return a recipe of mode freeze, without augmentation, for the same data and backbone, or the default one."""
    tree = recipe.model_dump(exclude_none=True)
    # a network that was trained from scratch has no pretrained weights
    model = (
        {} if recipe.mode == "scratch" or not own_backbone else _only(tree["model"], "name", "weights", "image_size")
    )
    tree |= {"run": _only(tree["run"], "device", "precision", "workers")}
    tree |= {"features": _only(tree.get("features", {}), "cache", "budget_gb")}
    made = {"mode": "freeze", "model": model} | _only(tree, "seed", "data", "run", "features")
    return cast(FreezeRecipe, Recipe.model_validate(made).resolve())


def _only(tree: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: tree[key] for key in keys if key in tree}


def accuracies(
    subject: Subject, manifest: Manifest, leaked: Mapping[str, frozenset[str]], observer: Observer
) -> tuple[LeakedAccuracy, ...]:
    """Return the accuracy of the run with and without leaked images, on its validation images and those of test.

    Args:
        manifest: of the images as they are now.
        leaked: split -> SHA-256 of its images that have a twin in train. Splits without any are left out.

    Raises:
        ArtefactError, ResourceError: the model, or the run's answers, are damaged; or the device is not there.
    """
    run, found = subject.run, []
    if run is None or not run.result.is_file():
        return ()
    if leaked.get("val"):
        answers = answers_of_run(run)
        found.append(leaked_accuracy("val", answers.right, _among(answers.sha256, leaked["val"])))
    if leaked.get("test"):
        images = manifest.of("test")
        model = load(run.path, subject.recipe.run.device)
        answered = list(model.answers([manifest.file(image) for image in images], observer=observer))
        pairs = [(one, image) for one, image in zip(answered, images, strict=True) if one.error is None]
        right = np.array([one.label == manifest.classes[image.label] for one, image in pairs], bool)
        found.append(leaked_accuracy("test", right, _among([image.sha256 for _, image in pairs], leaked["test"])))
    return tuple(found)


def _among(digests: Iterable[str], chosen: frozenset[str]) -> NDArray[np.bool_]:
    return np.array([digest in chosen for digest in digests], bool)

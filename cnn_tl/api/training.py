"""Training from Python: `cnn_tl.train` and `cnn_tl.lr_find`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.api.keywords import PathLike, as_text, is_recipe, path_text, recipe_of
from cnn_tl.api.messages import RECIPE_KEYS, with_keywords
from cnn_tl.api.observers import choose_observer, quiet_dependencies
from cnn_tl.core.imports import require_working_directory
from cnn_tl.core.progress import Observer

if TYPE_CHECKING:
    from cnn_tl.recipe import Recipe, ResolvedRecipe
    from cnn_tl.training.loop.lr_range_test import RangeTest
    from cnn_tl.training.result import TrainResult


@with_keywords
def train(
    data: PathLike | Recipe | ResolvedRecipe | Mapping[str, Any] | None = None,
    output: PathLike | None = None,
    *,
    recipe: PathLike | Recipe | ResolvedRecipe | None = None,
    mode: str | None = None,
    model: str | Mapping[str, Any] | None = None,
    weights: PathLike | None = None,
    head: str | Mapping[str, Any] | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | str | None = None,
    image_size: int | None = None,
    device: str | None = None,
    workers: int | None = None,
    seed: int | None = None,
    resume: bool = False,
    quiet: bool = False,
    observer: Observer | None = None,
    **sections: Any,
) -> TrainResult:
    """Train a classifier on a folder of images.

        result = cnn_tl.train("photos")                                    # a head on a frozen backbone
        result = cnn_tl.train("photos", mode="finetune", epochs=5)
        result = cnn_tl.train("photos", model="resnet50", head="ridge", output="runs/ridge")
        result = cnn_tl.train("photos", mode="finetune", augment={"flip": False}, train={"label_smoothing": 0.1})
        print(result.accuracy, result.interval, result.baseline)

    Args:
        data: a folder of class folders, or of train and val; a dict of folders, {"train": ..., "val": ...}; or a
            whole recipe.
        output: the run folder; by default the first free one of runs/DATA-MODE, runs/DATA-MODE-2, ...
        recipe: a recipe to start from: the name of a shipped one, a YAML file, or a `Recipe`.
        mode: freeze (default), finetune, lp-ft, auto or scratch.
        model: the backbone, any timm model by name; see `cnn_tl.models("resnet")`.
        weights: a file with the backbone's weights; by default the published ones.
        head: how the head on frozen features is fitted: auto (default), lbfgs+ridge, lbfgs, ridge,
            adamw, knn or prototype.
        epochs, batch_size, lr: of training; in mode freeze they concern the head adamw only. lr may be "auto".
        image_size: side of the network's input in pixels.
        device: auto (default), cpu, cuda or mps.
        workers: threads or processes that read images; None: one per core.
        seed: fixes every random choice, such as split, order and augmentation.
        resume: resume the run in `output`, or the newest run of this data and mode.
        quiet: show no progress. observer: receives progress events instead of the bars.
        sections: whole sections of the recipe, such as augment={"flip": False}.

    Raises:
        RecipeError: a setting does not exist, has an impossible value, or contradicts another.
        UsageError, DataError, ArtefactError, ResourceError, DivergedError: see `cnn_tl.core.errors`.
        Stopped: Ctrl-C or a notebook's stop button; the same call with resume=True goes on.
    """
    require_working_directory()
    given = {name: value for name, value in locals().items() if name in RECIPE_KEYS}
    observer = choose_observer(observer, quiet)
    folder = None if output is None else Path(path_text(output, "output"))
    if resume and not is_recipe(data):
        folder, recipe = _to_resume(data, folder, recipe, mode, epochs, observer)
    return _train(recipe_of(data, recipe, given, sections), folder, given, resume, observer)


def _to_resume(
    data: PathLike | Recipe | ResolvedRecipe | Mapping[str, Any] | None,
    output: Path | None,
    recipe: PathLike | Recipe | ResolvedRecipe | None,
    mode: str | None,
    epochs: int | None,
    observer: Observer,
) -> tuple[Path, PathLike | Recipe | ResolvedRecipe | None]:
    """Return the folder of the run to resume, and the recipe that it goes on with."""
    from cnn_tl.training import resume

    found = resume.find(output, None if isinstance(data, Mapping) else as_text(data), mode, epochs)
    for note in found.notes:
        observer.note(note)
    return found.output, recipe or found.recipe


def _train(
    recipe: ResolvedRecipe, output: Path | None, given: Mapping[str, object], resume: bool, observer: Observer
) -> TrainResult:
    from cnn_tl.doctor.twin_groups import find_twin_groups
    from cnn_tl.reporting.after_training import write_report_of
    from cnn_tl.training.resume import note_without_effect
    from cnn_tl.training.run import train as run_training

    if idle := note_without_effect(recipe, {name: given[name] for name in ("epochs", "lr")}):
        observer.note(idle)
    with quiet_dependencies():
        return run_training(
            recipe, output, resume=resume, observer=observer, report=write_report_of, find_twins=find_twin_groups
        )


@with_keywords
def lr_find(
    data: PathLike | Recipe | ResolvedRecipe | Mapping[str, Any] | None = None,
    *,
    recipe: PathLike | Recipe | ResolvedRecipe | None = None,
    mode: str | None = None,
    model: str | Mapping[str, Any] | None = None,
    weights: PathLike | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    device: str | None = None,
    workers: int | None = None,
    seed: int | None = None,
    quiet: bool = False,
    observer: Observer | None = None,
    **sections: Any,
) -> RangeTest:
    """Find a learning rate for `train` by a range test: about sixty steps at rising rates on a throwaway model.

        found = cnn_tl.lr_find("photos")
        cnn_tl.train("photos", mode="finetune", lr=found.suggestion)

    Args:
        mode: finetune (default) or scratch. The others are as in `train`.

    Returns:
        The rates, the loss at each, and the suggested rate, which is None where the losses show none.

    Raises:
        The errors of `train`.
    """
    require_working_directory()
    given = {name: value for name, value in locals().items() if name in RECIPE_KEYS}
    if mode is None and recipe is None and not is_recipe(data):
        given["mode"] = "finetune"
    whole = recipe_of(data, recipe, given, sections)
    from cnn_tl.doctor.twin_groups import find_twin_groups
    from cnn_tl.training.run import find_lr

    with quiet_dependencies():
        return find_lr(whole, observer=choose_observer(observer, quiet), find_twins=find_twin_groups)

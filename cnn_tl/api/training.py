"""`cnn_tl.train` and `cnn_tl.lr_find`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.api.keywords import PathLike, as_text, chosen, is_recipe, path_text
from cnn_tl.api.messages import FLAGS, with_keywords
from cnn_tl.api.observers import calm, observer_here
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
        model: the backbone, any name of timm's; see `cnn_tl.models("resnet")`.
        weights: a weights file; by default the published weights of the model.
        head: how a head on frozen features is fitted: lbfgs (default), ridge, adamw, knn or prototype.
        epochs, batch_size, lr: of the training loop. lr may be "auto".
        image_size: side of the network's input in pixels.
        device: auto (default), cpu, cuda or mps.
        workers: threads that read images. seed: decides split, order and augmentation.
        resume: go on with the run in `output`, or the newest of this data and mode.
        quiet: show nothing. observer: receives progress events, and shows them in its own way.
        sections: whole sections of the recipe, such as augment={"flip": False}.

    Raises:
        RecipeError: a setting that does not exist, cannot be, or contradicts another.
        UsageError, DataError, ArtefactError, ResourceError, DivergedError: see `cnn_tl.core.errors`.
        Stopped: Ctrl-C, or the notebook's stop button; the same call with resume=True goes on.
    """
    require_working_directory()
    flags = {name: value for name, value in locals().items() if name in FLAGS}
    from cnn_tl.training import run_folder, run_index
    from cnn_tl.training.run import train as run_training

    output = None if output is None else path_text(output, "output")
    observer = observer_here(observer, quiet)
    if resume and not is_recipe(data):
        if output is None:
            found = run_index.to_resume(None if isinstance(data, Mapping) else as_text(data), mode, epochs)
            output = found.path
            for note in found.notes:
                observer.note(note)
        run = run_folder.RunFolder(Path(output))
        if not run.never_began:  # else nothing is known of it but what is said here again
            run.require_run()
            recipe = recipe or run.recipe
    whole = chosen(data, recipe, flags, sections)
    idle = [name for name in ("epochs", "lr") if flags[name] is not None]
    if idle and whole.mode == "freeze" and whole.head.kind != "adamw":
        have = "has" if len(idle) == 1 else "have"
        observer.note(f"{' and '.join(idle)} {have} no effect: the head ({whole.head.kind}) is fitted, not trained")
    with calm():
        return run_training(whole, output, resume=resume, observer=observer)


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
    """Find a learning rate for `train`: some sixty steps, each at a higher rate; the model is thrown away.

        found = cnn_tl.lr_find("photos")
        cnn_tl.train("photos", mode="finetune", lr=found.suggestion)

    Args:
        mode: finetune (default) or scratch. The others are as in `train`.

    Returns:
        The rates, the loss at each, and the suggested rate, which is None where the losses do not tell.

    Raises:
        The errors of `train`.
    """
    require_working_directory()
    flags = {name: value for name, value in locals().items() if name in FLAGS}
    if mode is None and recipe is None and not is_recipe(data):
        flags["mode"] = "finetune"
    whole = chosen(data, recipe, flags, sections)
    from cnn_tl.training.run import find_lr

    with calm():
        return find_lr(whole, observer=observer_here(observer, quiet))

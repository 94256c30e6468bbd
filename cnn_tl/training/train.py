"""One run from a recipe to a run folder: scan, plan, train, judge, keep."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from cnn_tl import files
from cnn_tl import recipe as recipes
from cnn_tl.data.folder import scan
from cnn_tl.data.image import ImageLimits
from cnn_tl.data.manifest import Manifest
from cnn_tl.errors import DataError, RecipeError, UsageError, printable
from cnn_tl.networks import backbone, bundle, hub, weights
from cnn_tl.progress import Observer, Plan
from cnn_tl.recipe import Recipe
from cnn_tl.runtime import pick_device, require_torch, stop_on_signals
from cnn_tl.training import finetune, frozen
from cnn_tl.training.planning import choose_precision, make_plan
from cnn_tl.training.result import TrainResult, judge, read_result, validation_lines
from cnn_tl.training.run_folder import RunFolder, default_output
from cnn_tl.training.session import Session, warn_of_set_aside

MODES: dict[str, Callable[[Session], Tensor]] = {
    "freeze": frozen.train,
    "finetune": finetune.train,
    "scratch": finetune.train,
}
"""Mode -> function from a session to the validation logits [N, K] of the model that it leaves in the session."""


def train(
    recipe: Recipe,
    output: Path | str | None = None,
    *,
    resume: bool = False,
    observer: Observer | None = None,
) -> TrainResult:
    """Train what the recipe says and return how good it is.

    Args:
        output: the run folder; by default the first free one of runs/DATA-MODE, runs/DATA-MODE-2, ...
        resume: go on with the run that `output` holds. A run that has finished gives its result again.
        observer: hears of progress.

    Raises:
        UsageError: the recipe names no data, an unknown model, or differs from the run to be resumed.
        DataError: see `cnn_tl.data.folder.scan`; or the data differs from the run to be resumed.
        ArtefactError: weights that do not fit, or checkpoints that are all damaged.
        ResourceError: device, disk, network or lock.
        DivergedError: the loss is no longer finite.
        Stopped: SIGINT or SIGTERM; `resume` goes on.
    """
    started = time.monotonic()
    observer = observer or Observer()
    recipe = recipe.resolve()
    run = _run_folder(recipe, output)
    if resume:
        run.require_run()
        _refuse_difference(run, recipe)
    else:
        run.require_new()
    with run.locked():
        if resume and run.result.exists():
            observer.note(f"{printable(run.path)} has finished already; this is its result")
            return read_result(run)
        files.remove_temporaries(run.path)
        session = _prepare(recipe, run, observer, resume=resume)
        observer.plan(_plan_of(session))
        with stop_on_signals() as session.stop:
            logits = MODES[recipe.mode](session)
            session.raise_if_stopped()
        return _finish(session, logits, started)


def plan(recipe: Recipe, output: Path | str | None = None, *, observer: Observer | None = None) -> Plan:
    """Return what `train` would do, having read the weights and every picture, and written nothing.

    Raises:
        The errors of `train` up to its plan.
    """
    recipe = recipe.resolve()
    run = _run_folder(recipe, output)
    run.require_new()
    session = _prepare(recipe, run, observer or Observer(), resume=False, write=False)
    session.check_pictures()
    return _plan_of(session)


def _run_folder(recipe: Recipe, output: Path | str | None) -> RunFolder:
    if recipe.data.path is None:
        raise UsageError("no data: name a folder of class folders, as in cnn-tl train DATA")
    path = Path(output) if output is not None else default_output(recipe.data.path, recipe.mode)
    if path.resolve().is_relative_to(Path(recipe.data.path).resolve()):
        raise UsageError(
            f"the run folder {printable(path)} would lie inside the data folder; choose another place with --output"
        )
    return RunFolder(path)


def _prepare(recipe: Recipe, run: RunFolder, observer: Observer, *, resume: bool, write: bool = True) -> Session:
    """Scan the data, load the network, and write the recipe and the manifest into the run folder."""
    file = Path(recipe.model.weights) if recipe.model.weights else None
    pretrained = recipe.mode != "scratch"
    if pretrained and file is None and not weights.has_package(recipe.model.name):
        hub.knock_early(recipe.model.name)
    manifest = _scan(recipe, observer)  # before anything is downloaded
    if resume:
        manifest = _same_data(run, manifest)
    require_torch()
    device = pick_device(recipe.run.device)
    source = weights.locate(recipe.model.name, file, pretrained=pretrained)
    network = backbone.build(
        recipe.model.name,
        source,
        num_classes=len(manifest.classes),
        image_size=recipe.model.image_size,
        seed=recipe.seed,
    )
    network.preprocessing = replace(
        network.preprocessing, max_pixels=recipe.data.max_pixels, min_side=recipe.data.min_side
    )
    session = Session(recipe, manifest, network, device, choose_precision(recipe, network, device), run, observer)
    if recipe.mode == "freeze":
        backbone.require_linear_classifier(network)
    if write:
        files.write_json(run.manifest, manifest.to_json())
        files.write_text(run.recipe, recipes.to_yaml(recipe))  # last: a folder with a recipe is a run
    return session


def _scan(recipe: Recipe, observer: Observer) -> Manifest:
    assert recipe.data.path is not None
    scanned = 0

    def show(done: int, total: int) -> None:
        nonlocal scanned
        observer.advance(done - scanned)
        scanned = done

    with observer.task("scanning", None):
        manifest = scan(
            Path(recipe.data.path),
            seed=recipe.seed,
            val_fraction=recipe.data.val_fraction,
            limits=ImageLimits(recipe.data.max_pixels, recipe.data.min_side),
            on_bad_image=recipe.data.on_bad_image,
            on_progress=show,
            workers=recipe.run.workers,
        )
    warn_of_set_aside(observer, [f"{printable(item.path)}: {item.reason}" for item in manifest.set_aside])
    for text in manifest.notes:
        observer.note(text)
    return manifest


def _plan_of(session: Session) -> Plan:
    return make_plan(
        session.recipe, session.manifest, session.network, session.device, session.precision, session.run
    )


def _refuse_difference(run: RunFolder, recipe: Recipe) -> None:
    """Refuse to resume a run with another recipe than its own."""
    changes = recipes.diff(recipes.load(run.recipe).resolve(), recipe)
    if changes:
        raise RecipeError(
            f"{printable(run.path)} was begun with another recipe ({'; '.join(changes)}); "
            "resume without these changes, or start anew with another --output"
        )


def _same_data(run: RunFolder, manifest: Manifest) -> Manifest:
    """Return the manifest without the pictures that the run found broken, if the data is still the same."""
    stored = Manifest.from_json(files.read_json(run.manifest))
    broken = {item.path: item.reason for item in stored.set_aside}
    manifest = manifest.without(
        (picture, broken[picture.path]) for picture in manifest.pictures if picture.path in broken
    )
    changes = stored.diff(manifest)
    if changes:
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        raise DataError(
            f"{printable(manifest.root)} has changed since {printable(run.path)} was begun: "
            f"{'; '.join(changes[:5])}{more}; restore it, or start anew with another --output"
        )
    return manifest


def _finish(session: Session, logits: Tensor, started: float) -> TrainResult:
    """Judge the model on the validation part and write what is left to write; the result comes last."""
    run = session.run
    result = judge(session, logits, seconds=round(time.monotonic() - started, 2))
    files.write_json(run.manifest, session.manifest.to_json())
    files.write_text(run.validation, validation_lines(session, logits))
    if session.recipe.mode == "freeze":
        run.write_metrics([{"val_accuracy": result.accuracy, **session.facts}])
    bundle.save(
        run.bundle,
        session.network.model,
        classes=session.manifest.classes,
        preprocessing=session.network.preprocessing,
        facts={
            "mode": result.mode,
            "weights": session.network.source.description,
            "seed": session.recipe.seed,
            "validation": {"accuracy": result.accuracy, "pictures": result.pictures, "interval": result.interval},
        },
    )
    files.write_json(run.result, result.to_dict())
    shutil.rmtree(run.features, ignore_errors=True)
    return result

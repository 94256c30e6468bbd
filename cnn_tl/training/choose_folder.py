"""Which folder a run gets, whether a run in it is resumed, and whether that has anything left to do."""

from __future__ import annotations

import contextlib
from pathlib import Path

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, ResourceError, UsageError, printable
from cnn_tl.core.processes import World
from cnn_tl.core.progress import Observer
from cnn_tl.data.folders.layout import refuse_non_folder
from cnn_tl.networks import bundle
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training import run_index
from cnn_tl.training.result import TrainResult, read_result
from cnn_tl.training.run_folder import RunFolder, default_output
from cnn_tl.training.setup import is_extension, require_checkpoint


def choose_folder(
    recipe: ResolvedRecipe, output: Path | str | None, resume: bool, world: World, observer: Observer
) -> tuple[RunFolder, bool]:
    """Return the run folder, and whether to resume its run: if asked to, or if this launch began it before.

    A launch is identified by its name. torchrun also counts restarts, but not those after its members have changed, and
    a replacement machine counts from 0; so the count is used only if the launch has no name.

    Raises:
        ArtefactError: there is no run to resume. UsageError: the folder would lie inside the data folder.
        ResourceError: the folder is taken, perhaps by a run that the same command began and that can be resumed.
    """
    if output is None and resume:
        epochs = recipe.train.epochs if isinstance(recipe, LoopRecipe) else None
        output = run_index.to_resume(recipe.data.path, recipe.mode, epochs).path
    elif output is None:
        output = _run_of_this_launch(recipe, world)
    run = run_folder(recipe, output)
    is_own = run.belongs_to(world.launch) if world.launch else world.restarts > 0 and run.recipe.exists()
    resume = (resume or is_own) and not run.never_began
    if resume:
        run.require_run()
    else:
        if not run.never_began and run_index.is_stopped_twin(run, recipe):
            raise ResourceError(
                f"{printable(run.path)} was begun by the same command and can be resumed: {run.resume_command}; "
                "or choose another --output"
            )
        run.require_new()
        if output is None and (twin := run_index.stopped_twin(recipe)):
            observer.warn(
                f"{printable(twin.path)} was begun by the same command and can be resumed: {twin.resume_command}; "
                f"this begins another run, {printable(run.path)}"
            )
    return run, resume


def _run_of_this_launch(recipe: ResolvedRecipe, world: World) -> Path | None:
    """Return the run in runs/ that an earlier start of this launch began; None if this is the first start."""
    if world.launch:
        return run_index.begun_by(world.launch, recipe.data.path, recipe.mode)
    if world.restarts:
        with contextlib.suppress(ArtefactError):
            return run_index.to_resume(recipe.data.path, recipe.mode, several=True).path
    return None


def run_folder(recipe: ResolvedRecipe, output: Path | str | None) -> RunFolder:
    """Return the folder of a run; None: the first free one of runs/DATA-MODE, runs/DATA-MODE-2, ...

    Raises:
        UsageError: it would lie inside the data folder.
    """
    data = recipe.data.folder
    path = Path(output) if output is not None else default_output(str(data), recipe.mode)
    places = [data / place for place in recipe.data.splits.values()] or [data]
    if any(path.resolve().is_relative_to(place.resolve()) for place in places):
        raise UsageError(
            f"the run folder {printable(path)} would lie inside the data folder; choose another place with --output"
        )
    return RunFolder(path)


def finished_result(run: RunFolder, recipe: ResolvedRecipe, observer: Observer) -> TrainResult | None:
    """Return the result of a run that has nothing left to do; None if it has to train.

    Raises:
        ArtefactError: its result or model is damaged. RecipeError: the recipe differs from the run's.
    """
    if is_extension(run, recipe):
        if run.result.exists():
            require_checkpoint(run)
        observer.note("the run is extended; from here on the learning rate follows the longer schedule")
    elif run.result.exists():
        if recipe.data.path is not None and recipe.data.path != run.own_recipe().data.path:
            refuse_non_folder(Path(recipe.data.path))
        result = read_result(run)
        _require_whole_model(run)
        observer.note(f"{printable(run.path)} has finished already; this is its result")
        return result
    return None


def _require_whole_model(run: RunFolder) -> None:
    """Refuse a finished run whose bundle is missing or damaged.

    Raises:
        ArtefactError: it is.
    """
    try:
        files.verify_checksums(run.bundle, required=(bundle.CONFIG, bundle.WEIGHTS))
    except ArtefactError as error:
        what_now = f"remove {printable(run.result)}, and this makes the model again: {run.resume_command}"
        raise ArtefactError(f"the model of this finished run is damaged: {error}; {what_now}") from error

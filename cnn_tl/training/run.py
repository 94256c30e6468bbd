"""One run from a recipe to a run folder: scan, plan, train, judge, keep.

Nothing here imports torch: a run in mode `freeze` whose features are all in the cache needs none.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_tl.core import files
from cnn_tl.core.device import deterministic, fp32_switches_restored
from cnn_tl.core.errors import ArtefactError, ResourceError, UsageError, printable
from cnn_tl.core.launch import process_group
from cnn_tl.core.processes import World
from cnn_tl.core.progress import Observer, Plan
from cnn_tl.core.signals import stop_on_signals
from cnn_tl.data.folders.layout import refuse_non_folder
from cnn_tl.networks import bundle
from cnn_tl.recipe import Recipe, ResolvedRecipe
from cnn_tl.recipe.resolved import FinetuneRecipe, FreezeRecipe, LoopRecipe, LpFtRecipe
from cnn_tl.tracking import require_trackers, tracked
from cnn_tl.training import run_index
from cnn_tl.training.checkpoints import digests
from cnn_tl.training.context import Logits, Session
from cnn_tl.training.curves import drawn_in_the_end
from cnn_tl.training.result import TrainResult, judge, read_result, validation_lines
from cnn_tl.training.run_folder import RunFolder, default_output
from cnn_tl.training.saving import freeze_receipt, save_model
from cnn_tl.training.setup import is_extension, open_session, require_checkpoint

if TYPE_CHECKING:
    from cnn_tl.training.loop.lr_range_test import RangeTest

Ready = tuple[Plan, Callable[[], Logits]]


def train(
    recipe: Recipe | ResolvedRecipe,
    output: Path | str | None = None,
    *,
    resume: bool = False,
    observer: Observer | None = None,
) -> TrainResult:
    """Train what the recipe says and return how good it is.

    Args:
        output: the run folder; by default the first free one of runs/DATA-MODE, runs/DATA-MODE-2, ...
        resume: go on with the run that `output` holds. A run that has finished gives its result again, unless the
            recipe now asks for more epochs, which it then gets.
        observer: hears of progress.

    Raises:
        UsageError: the recipe names no data, an unknown model, or differs from the run to be resumed.
        DataError: see `cnn_tl.data.folders.scan.scan`; or the data differs from the run to be resumed.
        ArtefactError: weights that do not fit, or checkpoints that are all damaged.
        ResourceError: device, disk, network or lock; or a tracker that the recipe names is not installed.
        DivergedError: the loss is no longer finite.
        Stopped: SIGINT or SIGTERM; `resume` goes on.
    """
    started = time.monotonic()
    recipe = recipe.resolve()
    require_trackers(recipe.run.track)
    with fp32_switches_restored(), process_group() as world:
        observer = observer if observer and world.is_first else Observer()
        run, resume = world.first(lambda: _opened(recipe, output, resume, world, observer))
        with contextlib.ExitStack() as stack:
            stack.callback(run_index.forget_if_gone, run.path)  # after the lock is gone
            world.first(lambda: stack.enter_context(run.locked()))
            if resume and not digests.is_on(run.path):
                observer.warn(
                    f"{printable(run.path / digests.DIGESTS)} is missing (earlier versions wrote none): nobody can say "
                    "whether recipe, result and weights are what they were"
                )
            if resume and (finished := world.first(lambda: _finished(run, recipe, observer))):
                return finished
            world.first(lambda: files.remove_temporaries(run.path))
            world.first(lambda: run_index.remember(run.path))
            if not resume:
                world.first(lambda: run.keep_until_begun(recipe))
                world.first(lambda: run.begun_by(world.launch))  # before the recipe, with which a folder is a run
            stack.enter_context(deterministic(recipe.run.deterministic))  # before the network is built and tried
            session = open_session(recipe, run, observer, resume=resume, world=world)
            with run.outlives_a_full_disk():
                return _work(session, started)


def _opened(
    recipe: ResolvedRecipe, output: Path | str | None, resume: bool, world: World, observer: Observer
) -> tuple[RunFolder, bool]:
    """Return the run folder, and whether there is a run in it to go on with: asked for, or begun by the same launch.

    A launch is known by its name: torchrun counts its restarts, but not those after the members have changed, and on a
    machine that takes the place of another it counts from 0. Without a name that count is all there is.
    """
    if output is None and resume:
        epochs = recipe.train.epochs if isinstance(recipe, LoopRecipe) else None
        output = run_index.to_resume(recipe.data.path, recipe.mode, epochs).path
    elif output is None:
        output = _own_run(recipe, world)
    run = _run_folder(recipe, output)
    is_own = run.was_begun_by(world.launch) if world.launch else world.restarts > 0 and run.recipe.exists()
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


def _own_run(recipe: ResolvedRecipe, world: World) -> Path | None:
    """Return the run under runs/ that an earlier start of this launch has begun, if this is a later one."""
    if world.launch:
        return run_index.begun_by(world.launch, recipe.data.path, recipe.mode)
    if world.restarts:
        with contextlib.suppress(ArtefactError):
            return run_index.to_resume(recipe.data.path, recipe.mode, several=True).path
    return None


def _finished(run: RunFolder, recipe: ResolvedRecipe, observer: Observer) -> TrainResult | None:
    """Return the result of a run that has nothing left to do."""
    if is_extension(run, recipe):
        if run.result.exists():
            require_checkpoint(run)
        observer.note("the run goes on for longer; from here on the learning rate follows the longer schedule")
    elif run.result.exists():
        if recipe.data.path is not None and recipe.data.path != run.own_recipe().data.path:
            refuse_non_folder(Path(recipe.data.path))
        result = read_result(run)
        _require_whole_model(run)
        observer.note(f"{printable(run.path)} has finished already; this is its result")
        return result
    return None


def _require_whole_model(run: RunFolder) -> None:
    """Refuse to call a run finished whose bundle was damaged or removed since.

    Raises:
        ArtefactError: it was.
    """
    try:
        files.verify_checksums(run.bundle, required=(bundle.CONFIG, bundle.WEIGHTS))
    except ArtefactError as error:
        what_now = f"remove {printable(run.result)}, and this makes the model anew: {run.resume_command}"
        raise ArtefactError(f"the model of this finished run is damaged: {error}; {what_now}") from error


def _work(session: Session, started: float) -> TrainResult:
    recipe, observer, world = session.recipe, session.observer, session.world
    made, work = MODES[recipe.mode](session, write=True)
    observer.plan(made)
    trackers = recipe.run.track if world.is_first else ()
    with tracked(trackers, session.run.path, recipe.model_dump(), observer.warn) as session.tracking:
        with stop_on_signals(second_ends=not world.launched) as session.stop, drawn_in_the_end(session):
            logits = work()
            with world.together():
                session.raise_if_stopped()
        return world.first(lambda: _finish(session, logits, started))


def plan(
    recipe: Recipe | ResolvedRecipe, output: Path | str | None = None, *, observer: Observer | None = None
) -> Plan:
    """Return what `train` would do, having read the weights and every image, and written nothing.

    Raises:
        The errors of `train` up to its plan.
    """
    recipe = recipe.resolve()
    require_trackers(recipe.run.track)
    run = _run_folder(recipe, output)
    run.require_new()
    with fp32_switches_restored(), deterministic(recipe.run.deterministic):
        session = open_session(recipe, run, observer or Observer(), resume=False, write=False)
        made, _ = MODES[recipe.mode](session, write=False)
    return made


def find_lr(recipe: Recipe | ResolvedRecipe, *, observer: Observer | None = None) -> RangeTest:
    """Make the range test that `train.lr: auto` goes by, and nothing else; no run folder is written.

    Raises:
        UsageError: the mode has no loop; and the errors of `train`.
    """
    recipe = recipe.resolve()
    if not isinstance(recipe, FinetuneRecipe):
        raise UsageError(f"mode {recipe.mode} begins with a fitted head; find a learning rate for --mode finetune")
    scratch = tempfile.TemporaryDirectory()
    with scratch as folder, fp32_switches_restored(), deterministic(recipe.run.deterministic):
        run = _run_folder(recipe, Path(folder) / "run")
        session = open_session(recipe, run, observer or Observer(), resume=False, write=False)
        from cnn_tl.training.modes import finetune  # it loads torch, for which a wrong folder need not wait

        with stop_on_signals() as session.stop:
            return finetune.find_lr(session)


def _freeze(session: Session[FreezeRecipe], *, write: bool) -> Ready:
    from cnn_tl.training.estimate import plan_frozen
    from cnn_tl.training.modes import freeze

    prepared = freeze.prepare(session, write=write)
    # features that are at hand were images once
    if not write and session.check_images(prepared.images_to_read, keep=False):
        prepared = freeze.prepare(session, write=write)
    return plan_frozen(session, prepared), lambda: freeze.train(session, prepared)


def _loop(session: Session[LoopRecipe], *, write: bool) -> Ready:
    from cnn_tl.training.estimate import plan_loop
    from cnn_tl.training.modes import finetune

    if not write:
        session.check_images(keep=False)
    return plan_loop(session), lambda: finetune.train(session).numpy()


def _head_first(session: Session[LpFtRecipe], *, write: bool) -> Ready:
    from cnn_tl.training.estimate import plan_head_first
    from cnn_tl.training.modes import lp_ft

    prepared = lp_ft.prepare(session, write=write)
    if not write and session.check_images(keep=False):
        prepared = lp_ft.prepare(session, write=write)
    return plan_head_first(session, prepared), lambda: lp_ft.train(session, prepared)


MODES: dict[str, Callable[..., Ready]] = {
    "freeze": _freeze,
    "finetune": _loop,
    "scratch": _loop,
    "lp-ft": _head_first,
    "auto": _head_first,
}
"""Mode -> function (session, *, write) -> the plan, and the work: a function to the validation logits [N, K] of the
model that it leaves in the session. `write=False` leaves no trace, and reads every image that the work would read."""


def _run_folder(recipe: ResolvedRecipe, output: Path | str | None) -> RunFolder:
    data = recipe.data.folder
    path = Path(output) if output is not None else default_output(str(data), recipe.mode)
    places = [data / place for place in recipe.data.splits.values()] or [data]
    if any(path.resolve().is_relative_to(place.resolve()) for place in places):
        raise UsageError(
            f"the run folder {printable(path)} would lie inside the data folder; choose another place with --output"
        )
    return RunFolder(path)


def _finish(session: Session, logits: Logits, started: float) -> TrainResult:
    """Judge the model on the validation part and write what is left to write; the result comes last."""
    run = session.run
    if session.head is not None:
        session.facts["frozen_sha256"] = freeze_receipt(session)
    result = judge(session, logits, started)
    files.write_json(run.manifest, session.manifest.to_json())
    files.write_text(run.validation, validation_lines(session, logits))
    save_model(session, result, logits)
    if session.recipe.mode == "freeze":
        session.log([{"val_accuracy": result.accuracy, **session.facts}])
    digests.write(run.result, files.as_json(result.to_dict()))
    shutil.rmtree(run.features, ignore_errors=True)
    session.tracking.finish(result.to_dict())
    return result

"""One run from a recipe to a run folder: scan the data, plan, train, evaluate, save.

Nothing here imports torch: a run in mode `freeze` does not need it if all its features are cached.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cnn_tl.core import files
from cnn_tl.core.device import deterministic, fp32_switches_restored, may_be_gpu, unused_gpu
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.core.launch import process_group
from cnn_tl.core.progress import Observer, Plan
from cnn_tl.core.signals import stop_on_signals
from cnn_tl.data.reading.pool import pools_kept
from cnn_tl.metrics.answer_lines import answer_lines
from cnn_tl.recipe import Recipe, ResolvedRecipe
from cnn_tl.recipe.resolved import FinetuneRecipe
from cnn_tl.tracking import require_trackers, tracked
from cnn_tl.training import run_index
from cnn_tl.training.checkpoints import digests
from cnn_tl.training.choose_folder import choose_folder, finished_result, run_folder
from cnn_tl.training.context import Run, TwinFinder
from cnn_tl.training.curves import draw_curves, drawing_curves
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.estimate import Planned
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.outcome import DataFacts, Outcome
from cnn_tl.training.result import Finished, TrainResult, make_result, validation_answers
from cnn_tl.training.save_model import save_model, verified_backbone
from cnn_tl.training.setup import open_run
from cnn_tl.training.torch_use import refuse_missing_torch

if TYPE_CHECKING:
    from cnn_tl.training.loop.lr_range_test import RangeTest


def train(
    recipe: Recipe | ResolvedRecipe,
    output: Path | str | None = None,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    report: Reporter | None = None,
    find_twins: TwinFinder | None = None,
) -> TrainResult:
    """Train as the recipe says and return the result on the validation images.

    Args:
        output: the run folder; by default the first free one of runs/DATA-MODE, runs/DATA-MODE-2, ...
        resume: continue the run in `output`. A finished run returns its result again, unless the recipe now asks for
            more epochs, which are then trained.
        observer: receives progress.
        report: writes the page of the finished run, unless the recipe's `run.report` is false.
        find_twins: finds the groups of `data.groups: twins`; None: only equal files are twins.

    Raises:
        UsageError: the recipe names no data, an unknown model, or differs from the run to be resumed.
        DataError: see `cnn_tl.data.folders.scan.scan`; or the data differs from the run to be resumed.
        ArtefactError: weights that do not fit, or checkpoints that are all damaged.
        ResourceError: device, disk, network or lock; or a tracker that the recipe names is not installed.
        DivergedError: the loss is no longer finite.
        Stopped: SIGINT or SIGTERM; `resume` continues.
    """
    started = time.monotonic()
    recipe = recipe.resolve()
    require_trackers(recipe.run.track)
    if not resume:
        refuse_missing_torch(recipe)
    with fp32_switches_restored(), pools_kept(), process_group() as world:
        observer = observer if observer and world.is_first else Observer()
        if text := unused_gpu(recipe.run.device):
            observer.note(text)
        folder, resume = world.first(lambda: choose_folder(recipe, output, resume, world, observer))
        with contextlib.ExitStack() as stack:
            stack.callback(run_index.forget_if_gone, folder.path)  # runs after the lock is released
            world.first(lambda: stack.enter_context(folder.locked()))
            if resume and not digests.exist_in(folder.path):
                observer.warn(
                    f"{printable(folder.path / digests.DIGESTS)} is missing (earlier versions wrote none), so changes "
                    "to the recipe, the result or the weights cannot be detected"
                )
            if resume and (finished := world.first(lambda: finished_result(folder, recipe, observer))):
                return finished
            world.first(lambda: files.remove_temporaries(folder.path))
            world.first(lambda: run_index.remember(folder.path))
            if not resume:
                world.first(lambda: folder.write_draft(recipe))
                world.first(
                    lambda: folder.write_launch(world.launch)
                )  # before the recipe, with which a folder is a run
            stack.enter_context(deterministic(_needs_switches(recipe)))  # before the network is built and runs
            context = open_run(recipe, folder, observer, resume=resume, world=world, find_twins=find_twins)
            with folder.outlives_a_full_disk():
                return _plan_and_run(*context, started, report)


def plan(
    recipe: Recipe | ResolvedRecipe,
    output: Path | str | None = None,
    *,
    observer: Observer | None = None,
    find_twins: TwinFinder | None = None,
) -> Plan:
    """Return what `train` would do; reads the weights and every image, writes nothing but what `find_twins` caches.

    Args:
        output, observer, find_twins: as in `train`.

    Raises:
        The errors of `train` up to its plan.
    """
    recipe = recipe.resolve()
    require_trackers(recipe.run.track)
    refuse_missing_torch(recipe)
    folder = run_folder(recipe, output)
    folder.require_new()
    with fp32_switches_restored(), pools_kept(), deterministic(_needs_switches(recipe)):
        context = open_run(recipe, folder, observer or Observer(), resume=False, writes=False, find_twins=find_twins)
        return MODES[recipe.mode]().plan(*context).shown


def find_lr(
    recipe: Recipe | ResolvedRecipe, *, observer: Observer | None = None, find_twins: TwinFinder | None = None
) -> RangeTest:
    """Run only the range test of `train.lr: auto`; no run folder is written.

    Args:
        observer, find_twins: as in `train`.

    Raises:
        UsageError: the mode fits a head first, or has no loop.
        And the errors of `train`.
    """
    recipe = recipe.resolve()
    if not isinstance(recipe, FinetuneRecipe):
        raise UsageError(f"mode {recipe.mode} begins with a fitted head; find a learning rate for --mode finetune")
    refuse_missing_torch(recipe)
    scratch = tempfile.TemporaryDirectory()
    with scratch as path, fp32_switches_restored(), pools_kept(), deterministic(recipe.run.deterministic):
        folder = run_folder(recipe, Path(path) / "run")
        context = open_run(recipe, folder, observer or Observer(), resume=False, writes=False, find_twins=find_twins)
        from cnn_tl.training.modes import finetune  # imports torch: after the cheap checks

        with stop_on_signals(context[0].stop):
            return finetune.find_lr(*context)


Reporter = Callable[[Path, Finished, float], None]
"""Writes the page of a run, whose result is not on disk yet, to a path within a number of seconds."""


class Mode(Protocol):
    """The functions that each module in modes/ has."""

    def plan(self, run: Run[Any], dataset: Dataset[Any], network: LazyNetwork) -> Planned[Any]:
        """Return what `run` would do; if the run writes nothing, decode every image that it would read."""
        ...

    def run(self, run: Run[Any], dataset: Dataset[Any], network: LazyNetwork, work: Any) -> Outcome:
        """Do the `work` of the plan. Leave the trained model in the network, or return its head in the outcome."""
        ...


def _freeze() -> Mode:
    from cnn_tl.training.modes import freeze

    return freeze


def _finetune() -> Mode:
    from cnn_tl.training.modes import finetune

    return finetune


def _lp_ft() -> Mode:
    from cnn_tl.training.modes import lp_ft

    return lp_ft


MODES: dict[str, Callable[[], Mode]] = {
    "freeze": _freeze,
    "finetune": _finetune,
    "scratch": _finetune,
    "lp-ft": _lp_ft,
    "auto": _lp_ft,
}
"""Mode -> function that imports its module; all but freeze load torch."""


def _needs_switches(recipe: ResolvedRecipe) -> bool:
    """Return whether torch must be told to be deterministic: a frozen network on a CPU is so anyway."""
    return recipe.run.deterministic and (recipe.mode != "freeze" or may_be_gpu(recipe.run.device))


def _plan_and_run(
    run: Run, dataset: Dataset, network: LazyNetwork, started: float, report: Reporter | None
) -> TrainResult:
    """Plan, train, evaluate and save."""
    mode, world, observer = MODES[run.recipe.mode](), run.world, run.observer
    with contextlib.ExitStack() as stack:
        stack.callback(dataset.end_decoding)
        planned = mode.plan(run, dataset, network)
        observer.plan(planned.shown)
        trackers = run.recipe.run.track if world.is_first else ()
        tracking = tracked(trackers, run.folder.path, run.recipe.model_dump(), observer.warn, tracking=run.tracking)
        stack.enter_context(tracking)
        with stop_on_signals(run.stop, second_ends=not world.launched):
            outcome = _run_mode(mode, run, dataset, network, planned.work)
        return world.first(lambda: _finish(run, dataset, network, outcome, started, report))


def _run_mode(mode: Mode, run: Run, dataset: Dataset, network: LazyNetwork, work: object) -> Outcome:
    """Run the mode; if it is stopped or diverges, draw its learning curves so far."""
    outcome = None
    try:
        outcome = mode.run(run, dataset, network, work)
        with run.world.together():
            run.raise_if_stopped()
    except BaseException:
        draw_curves(run, dataset, network, outcome)
        raise
    return outcome


def _finish(
    run: Run, dataset: Dataset, network: LazyNetwork, outcome: Outcome, started: float, report: Reporter | None
) -> TrainResult:
    """Evaluate the model on the validation split and write the remaining files, result.json last."""
    folder = run.folder
    backbone, proof = None, outcome.facts.frozen_sha256
    if outcome.head is not None:
        backbone, proof = verified_backbone(run, network)
    data = DataFacts.of(dataset.manifest)
    outcome = replace(outcome, facts=replace(outcome.facts, data=data, frozen_sha256=proof, resumed=run.is_resumed))
    result = make_result(run, dataset, network, outcome, started)
    answers = validation_answers(dataset, outcome)
    with drawing_curves(run, dataset, network, outcome):
        files.write_json(folder.manifest, dataset.manifest.to_json())
        files.write_text(folder.validation, "".join(answer_lines(answers)))
        save_model(run, dataset, network, outcome, result, backbone)
    if run.recipe.mode == "freeze":
        facts = replace(outcome.facts, resumed=False)
        run.log([{"val_accuracy": result.accuracy, **facts.to_dict()}])
    if report is not None and run.recipe.run.report:
        result = _reported(run, Finished(result, dataset.manifest, answers), report)
    digests.write(folder.result, files.as_json(result.to_dict()))
    shutil.rmtree(folder.features, ignore_errors=True)
    run.tracking.finish(result.to_dict())
    return result


REPORT_SECONDS, REPORT_SHARE = 1.0, 0.03
"""The report of a run may take this many seconds, or this share of the run's, whichever is more."""


def _reported(run: Run, finished: Finished, report: Reporter) -> TrainResult:
    """Write the report and return the result that names it; a failure is a warning."""
    page, result = run.folder.report, finished.result
    try:
        report(page, finished, max(REPORT_SECONDS, REPORT_SHARE * result.seconds))
    except Exception as error:  # noqa: BLE001 - a failed report must not fail the run
        run.observer.warn(f"the report is not written: {error}")
        return result
    return replace(result, report=page)

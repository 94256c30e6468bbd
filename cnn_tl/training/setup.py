"""The start of a run: scan the data, find the network, write recipe and manifest into the run folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TypeVar, cast

from cnn_tl import recipe as recipes
from cnn_tl.core import files
from cnn_tl.core.background import Background
from cnn_tl.core.device import begin_loading
from cnn_tl.core.errors import ArtefactError, DataError, RecipeError, printable
from cnn_tl.core.imports import wait_for_import
from cnn_tl.core.processes import ALONE, World
from cnn_tl.core.progress import Observer, warn_of_set_aside
from cnn_tl.data.decoding.image import ImageLimits
from cnn_tl.data.folders.scan import Corrections, Groups, scan
from cnn_tl.data.manifest import Manifest
from cnn_tl.data.manifest_changes import changes
from cnn_tl.data.reading import ahead
from cnn_tl.networks.info import Remembered
from cnn_tl.plots.figure import new_figure
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.tracking.tracker import Tracking
from cnn_tl.training.checkpoints import digests
from cnn_tl.training.context import Run, TwinFinder, has_loop
from cnn_tl.training.dataset import Dataset, Selection
from cnn_tl.training.lazy_network import LazyNetwork, find_network, recall_network
from cnn_tl.training.outcome import Facts
from cnn_tl.training.preflight import refuse_unknown_classes, refuse_untrainable
from cnn_tl.training.result import read_result
from cnn_tl.training.run_folder import RunFolder

LONG_SCAN = 0.5
"""Seconds of a scan after which torch is loaded beside it."""

R = TypeVar("R", bound=ResolvedRecipe)


def open_run(
    recipe: R,
    folder: RunFolder,
    observer: Observer,
    *,
    resume: bool,
    writes: bool = True,
    world: World = ALONE,
    find_twins: TwinFinder | None = None,
) -> tuple[Run[R], Dataset[R], LazyNetwork]:
    """Scan the data, find the network, and write the recipe and the manifest into the run folder.

    Args:
        writes: False writes nothing, in the run folder or elsewhere.
        world: the processes of the run; each calls this.
        find_twins: what `data.groups: twins` uses, in the first process; None: only equal files are twins.
    """
    as_given = recipe
    if resume:
        recipe = world.first(lambda: with_found_paths(as_given, folder))
    run = Run(recipe, folder, observer, world, tracking=Tracking(observer.warn), is_resumed=resume, writes=writes)
    recalled = Background(lambda: recall_network(run), "recall network")
    loading = _Loading(run, recalled)
    if not world.is_first:
        loading.begin()
    manifest = world.first(lambda: _scanned(run, loading.begin, find_twins))  # before anything is downloaded
    refuse_unknown_classes(recipe, manifest.classes)
    known = recalled.result()
    if known is None and not resume:
        ahead.prepare(run.workers, len(manifest.images))  # nothing is kept of any image yet
    loading.begin()
    network = find_network(run, known, len(manifest.classes))
    dataset = Dataset(run, network.info.preprocessing, Selection(manifest))
    if has_loop(run):
        refuse_untrainable(run, dataset.of(run), network)
    if writes:
        world.first(lambda: _begin(run, dataset, network, as_given))
    return run, dataset, network


class _Loading:
    """Loads torch in a thread, if the run is going to need it."""

    def __init__(self, run: Run, recalled: Background[Remembered | None]) -> None:
        self._run, self._recalled, self._has_begun = run, recalled, False

    def begin(self) -> None:
        """Begin, once."""
        if self._has_begun:
            return
        self._has_begun, run = True, self._run
        if self._recalled.result() is None or has_loop(run):
            rest = _load_the_rest if run.writes and has_loop(run) else None
            begin_loading(run.recipe.run.device, opens_gpu=run.world.is_alone, then=rest)


def _load_the_rest() -> None:
    """Import what a loop needs at its first step and at its end, while images are prepared."""
    wait_for_import()  # of torch's companions, during which torch._dynamo is a stand-in
    import_module("torch._dynamo")  # for torch's optimizers
    new_figure(height=1.0)  # for the learning curves


def _scanned(run: Run, meanwhile: Callable[[], None], find_twins: TwinFinder | None) -> Manifest:
    if not run.is_resumed:
        return _scan(run.recipe, run.observer, meanwhile, find_twins)
    stored = Manifest.from_json(files.read_json(run.folder.manifest))
    # the images must be the same, and so are their twins
    found = _scan(run.recipe, run.observer, meanwhile, lambda *_: stored.groups())
    return _same_data(run.folder, stored, found)


def scan_data(recipe: ResolvedRecipe, observer: Observer, find_twins: TwinFinder | None = None) -> Manifest:
    """Scan the data of a recipe as a run does, with its remarks, where there is no run.

    Args:
        find_twins: what `data.groups: twins` uses; None: only equal files are twins.

    Raises:
        DataError: see `cnn_tl.data.folders.scan.scan`.
    """
    return _scan(recipe, observer, lambda: None, find_twins)


def _scan(
    recipe: ResolvedRecipe, observer: Observer, meanwhile: Callable[[], None], find_twins: TwinFinder | None
) -> Manifest:
    """Scan the data; call `meanwhile` if that takes long.

    An import takes the interpreter from a thread that reads many small files: a short scan is over sooner without it.
    """
    scanned, started = 0, time.monotonic()

    def show(done: int, total: int) -> None:
        nonlocal scanned
        observer.advance(done - scanned)
        scanned = done
        if time.monotonic() - started > LONG_SCAN:
            meanwhile()

    with observer.task("scanning", None):
        manifest = scan(
            recipe.data.folder,
            seed=recipe.seed,
            val_fraction=recipe.data.val_fraction,
            limits=ImageLimits(recipe.data.max_pixels, recipe.data.min_side),
            on_bad_image=recipe.data.on_bad_image,
            on_progress=show,
            workers=recipe.run.workers,
            splits=recipe.data.splits,
            corrections=_corrections(recipe, observer, find_twins),
        )
    warn_of_set_aside(observer, [f"{printable(item.path)}: {item.reason}" for item in manifest.set_aside])
    for text in manifest.notes:
        observer.note(text)
    return manifest


def _corrections(recipe: ResolvedRecipe, observer: Observer, find_twins: TwinFinder | None) -> Corrections:
    data = recipe.data
    groups: Groups | None = data.groups
    if data.group_file is not None:
        groups = Path(data.group_file)
    elif groups == "twins":
        groups = (lambda manifest: find_twins(manifest, observer, recipe)) if find_twins is not None else lambda _: {}
    exclude, relabel = (None if name is None else Path(name) for name in (data.exclude, data.relabel))
    return Corrections(exclude, relabel, groups)


def _same_data(run: RunFolder, stored: Manifest, manifest: Manifest) -> Manifest:
    """Return the manifest without the images that the run found broken.

    Raises:
        DataError: the data has changed since the run began.
    """
    broken = {item.path: item.reason for item in stored.set_aside}
    manifest = manifest.without((image, broken[image.path]) for image in manifest.images if image.path in broken)
    found = changes(stored, manifest)
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise DataError(
            f"{printable(manifest.root)} has changed since {printable(run.path)} was begun: "
            f"{'; '.join(found[:5])}{more}; restore it, or start again with another --output"
        )
    return manifest


def _begin(run: Run, dataset: Dataset, network: LazyNetwork, as_given: ResolvedRecipe) -> None:
    """Write the manifest, and the recipe as it was given; refuse weights that have changed since the run began."""
    folder = run.folder
    weights = digests.weights_digests(network.remembered) if run.recipe.mode != "scratch" else None
    if run.is_resumed and weights:
        digests.check_weights(folder.path, weights, network.info.weights)
    files.write_json(folder.manifest, dataset.manifest.to_json())
    with files.disk_errors(folder.result):
        folder.result.unlink(missing_ok=True)  # if the run is extended; after a kill here it still has its old length
        folder.report.unlink(missing_ok=True)  # it was about the shorter run
    # last: a folder with a recipe is a run
    digests.write(folder.recipe, recipes.to_yaml(as_given), weights=weights)
    with contextlib.suppress(OSError):
        folder.draft.unlink(missing_ok=True)


def with_found_paths(recipe: R, run: RunFolder) -> R:
    """Return a recipe with absolute paths of the run's files, so that any working directory will do.

    A recipe may name data, corrections and weights relative to the directory in which the run began; manifest.json has
    the path of the data.
    """
    given = recipe.data.path
    if given is None or Path(given).is_absolute() or given != run.own_recipe().data.path or not run.manifest.is_file():
        return recipe
    root = Path(files.read_json(run.manifest).get("root", ""))
    if not (root.is_absolute() and root.is_dir()):
        return recipe  # moved, perhaps together with the run
    names = Path(given).parts
    found: dict[str, str] = {}
    weights = recipe.model.weights
    if root.parts[len(root.parts) - len(names) :] == names:
        began_in = Path(*root.parts[: len(root.parts) - len(names)])
        data = recipe.data
        for key, name in (("exclude", data.exclude), ("relabel", data.relabel), ("groups", data.group_file)):
            if name is not None:
                found[key] = _found_path(name, began_in)
        weights = None if weights is None else _found_path(weights, began_in)
    model = recipe.model.model_copy(update={"weights": weights})
    update = {"data": recipe.data.model_copy(update={"path": str(root), **found}), "model": model}
    return cast(R, recipe.model_copy(update=update))


def _found_path(name: str, began_in: Path) -> str:
    """Return a path that exists: as it is, or from the directory in which the run began; else as it is."""
    return name if Path(name).exists() or not (began_in / name).exists() else str(began_in / name)


def require_checkpoint(run: RunFolder) -> None:
    """Refuse to extend a finished run without an undamaged checkpoint, before anything of it is changed.

    Raises:
        ArtefactError: there is none.
    """
    if any(run.checkpoints.glob("step-*")) and not run.has_only_damaged_checkpoints():
        return
    raise ArtefactError(
        f"{printable(run.path)} has no whole checkpoint to resume from, so it cannot be made longer and stays as it "
        "is; start again with another --output"
    )


def is_extension(run: RunFolder, recipe: ResolvedRecipe) -> bool:
    """Return whether the recipe asks for more epochs (or steps) than the run was begun with.

    Raises:
        RecipeError: the recipes differ in anything else that affects the result; or the run ended early, so that more
            epochs would not be trained.
    """
    own = run.own_recipe()
    longer = False
    if isinstance(own, LoopRecipe) and isinstance(recipe, LoopRecipe) and recipe.train.is_longer_than(own.train):
        longer = True
        own = own.model_copy(update={"train": own.train.model_copy(update={"length": recipe.train.length})})
    changes = recipes.diff(own, recipe)
    if changes:
        raise RecipeError(
            f"{printable(run.path)} was begun with another recipe ({'; '.join(changes)}); "
            "resume without these changes (only more epochs are possible), or start again with another --output"
        )
    loop = Facts.from_dict(read_result(run).facts).loop if longer and run.result.exists() else None
    if loop is not None and loop.ended_early is not None:
        raise RecipeError(
            f"{printable(run.path)} ended before its last epoch already ({loop.ended_early}: train.patience), so more "
            "epochs change nothing; start again with another --output and a higher train.patience"
        )
    return longer

"""Before any training: the data scanned, the network found, the recipe and the manifest in the run folder."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from cnn_tl import recipe as recipes
from cnn_tl.cache.inventory import touch
from cnn_tl.cache.location import default_root
from cnn_tl.cache.store import FeatureCache
from cnn_tl.core import files
from cnn_tl.core.device import pick_device
from cnn_tl.core.errors import ArtefactError, CnnTlError, DataError, RecipeError, printable
from cnn_tl.core.imports import require_torch
from cnn_tl.core.processes import ALONE, World
from cnn_tl.core.progress import Observer, warn_of_set_aside
from cnn_tl.data.decoding.image import ImageLimits
from cnn_tl.data.folders.scan import scan
from cnn_tl.data.manifest import Manifest
from cnn_tl.networks import info as cards
from cnn_tl.networks.info import Remembered
from cnn_tl.networks.pretrained import hub, weights
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.checkpoints import digests as seal
from cnn_tl.training.context import Session, has_loop
from cnn_tl.training.preflight import FITS_A_HEAD, refuse_unknown_classes, refuse_what_cannot_train
from cnn_tl.training.result import read_result
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.store import budget_bytes

if TYPE_CHECKING:
    from cnn_tl.networks.backbone import Network

R = TypeVar("R", bound=ResolvedRecipe)


def open_session(
    recipe: R,
    run: RunFolder,
    observer: Observer,
    *,
    resume: bool,
    write: bool = True,
    world: World = ALONE,
) -> Session[R]:
    """Scan the data, find the network, and write the recipe and the manifest into the run folder.

    Args:
        write: False leaves no trace, in the run folder or elsewhere.
        world: the processes that make the run together; each gets a session.
    """
    told = recipe
    if resume:
        recipe = world.first(lambda: found_again(told, run))
    file = Path(recipe.model.weights) if recipe.model.weights else None
    pretrained = recipe.mode != "scratch"
    memory = cards.folder_of(default_root(), recipe.model.name, file, recipe.model.image_size)
    known = cards.recall(memory) if _may_be_recalled(recipe) else None
    if known is not None and write:
        touch(memory)  # used now: the last to go
    if known is None and pretrained and file is None and not weights.has_package(recipe.model.name):
        hub.start_probe(recipe.model.name)

    def scanned() -> Manifest:
        found = _scan(recipe, observer)
        return _same_data(run, found) if resume else found

    manifest = world.first(scanned)  # before anything is downloaded
    refuse_unknown_classes(recipe, manifest.classes)
    num_classes = len(manifest.classes)

    def build() -> Network:
        built = _limited(_build(recipe, file, num_classes), recipe)
        if known is not None:  # remembered, or built before: mode auto builds it again in the end
            _require_same(built, known)
        return built

    network = None
    if known is None:
        network = build()
        known = _learned(network, recipe, memory, observer, write=write and world.local_rank == 0)
    remembered = replace(known, info=known.info.with_limits(recipe.data.max_pixels, recipe.data.min_side))
    session = Session(
        recipe, manifest, remembered, memory, build, run, observer,
        leaves_traces=write, world=world, is_resumed=resume,
    )  # fmt: skip
    if network is not None:
        session.network = network
    if has_loop(session):
        refuse_what_cannot_train(session)
    if write:
        world.first(lambda: _begin(run, session, told))
    return session


def _begin(run: RunFolder, session: Session, told: ResolvedRecipe) -> None:
    """Write what the run is told and sees, or refuse weights that are not those it began with."""
    digests = seal.weights_digests(session.remembered) if session.recipe.mode != "scratch" else None
    if session.is_resumed and digests:
        seal.check_weights(run.path, digests, session.card.weights)
    files.write_json(run.manifest, session.manifest.to_json())
    with files.disk_errors(run.result):
        run.result.unlink(missing_ok=True)  # of a run that goes on for longer; a kill here leaves the shorter one
    # last: a folder with a recipe is a run
    seal.write(run.recipe, recipes.to_yaml(told), weights=digests)
    with contextlib.suppress(OSError):
        run.begun.unlink(missing_ok=True)


def _may_be_recalled(recipe: ResolvedRecipe) -> bool:
    """Say whether the run can perhaps do without the network; a device that is asked for by name must be looked at."""
    return recipe.mode in FITS_A_HEAD and recipe.features.cache and recipe.run.device in ("auto", "cpu")


def _learned(network: Network, recipe: ResolvedRecipe, memory: Path, observer: Observer, *, write: bool) -> Remembered:
    """Return what there is to know about a network that has been built, and remember it for the next run."""
    from cnn_tl.networks import backbone

    if recipe.mode not in FITS_A_HEAD:
        return backbone.describe(network)
    learned = backbone.describe(network, backbone.require_linear_classifier(network))
    wanted = write and recipe.features.cache and learned.source is not None
    if wanted and (reason := _remember(learned, recipe, memory)):
        observer.note(f"the network is not remembered: {reason}")
    return learned


def _remember(learned: Remembered, recipe: ResolvedRecipe, memory: Path) -> str | None:
    """Remember a network within the cache's budget; where that cannot be, say why."""
    nbytes = sum(array.nbytes for array in learned.tensors().values())
    cache = FeatureCache(default_root(), budget_bytes=budget_bytes(recipe))
    if reason := cache.make_room(nbytes):
        return reason
    try:
        cards.remember(memory, learned)
    except (CnnTlError, OSError) as error:
        return str(error)
    return None


def _build(recipe: ResolvedRecipe, file: Path | None, num_classes: int) -> Network:
    started = time.monotonic()
    require_torch()
    from cnn_tl.networks import backbone

    loading_seconds = time.monotonic() - started
    pick_device(recipe.run.device)  # refused before the seconds that building takes
    source = weights.locate(recipe.model.name, file, pretrained=recipe.mode != "scratch")
    built = backbone.build(
        recipe.model.name,
        source,
        num_classes=num_classes,
        image_size=recipe.model.image_size,
        seed=recipe.seed,
    )
    built.loading_seconds = loading_seconds
    return built


def _require_same(built: Network, known: Remembered) -> None:
    """Refuse a network that is not the one known: its features would be kept under the name of the other's."""
    from cnn_tl.networks.backbone import backbone_tensors

    if cards.tensors_digest(backbone_tensors(built.model)) != known.info.backbone_sha256:
        raise ArtefactError(f"the weights of {built.name} have changed while the run was at work; start it anew")


def _limited(network: Network, recipe: ResolvedRecipe) -> Network:
    network.preprocessing = replace(
        network.preprocessing, max_pixels=recipe.data.max_pixels, min_side=recipe.data.min_side
    )
    return network


def _scan(recipe: ResolvedRecipe, observer: Observer) -> Manifest:
    scanned = 0

    def show(done: int, total: int) -> None:
        nonlocal scanned
        observer.advance(done - scanned)
        scanned = done

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
        )
    warn_of_set_aside(observer, [f"{printable(item.path)}: {item.reason}" for item in manifest.set_aside])
    for text in manifest.notes:
        observer.note(text)
    return manifest


def found_again(recipe: R, run: RunFolder) -> R:
    """Return a recipe whose data and weights are those that the run began with, whatever the working directory is now.

    A recipe may name them relative to the directory in which the run began; where the data was is in manifest.json.
    """
    told = recipe.data.path
    if told is None or Path(told).is_absolute() or told != run.own_recipe().data.path or not run.manifest.is_file():
        return recipe
    root = Path(files.read_json(run.manifest).get("root", ""))
    if not (root.is_absolute() and root.is_dir()):
        return recipe  # moved, perhaps together with the run
    recipe = cast(R, recipe.model_copy(update={"data": recipe.data.model_copy(update={"path": str(root)})}))
    weights, names = recipe.model.weights, Path(told).parts
    if weights is None or Path(weights).exists() or root.parts[len(root.parts) - len(names) :] != names:
        return recipe
    began_in = Path(*root.parts[: len(root.parts) - len(names)])
    if not (began_in / weights).exists():
        return recipe
    model = recipe.model.model_copy(update={"weights": str(began_in / weights)})
    return cast(R, recipe.model_copy(update={"model": model}))


def require_checkpoint(run: RunFolder) -> None:
    """Refuse to make a finished run longer that has no whole checkpoint left: it stays as it is.

    Raises:
        ArtefactError: it has none.
    """
    if any(run.checkpoints.glob("step-*")) and not run.has_only_damaged_checkpoints():
        return
    raise ArtefactError(
        f"{printable(run.path)} has no whole checkpoint to go on from, so it cannot be made longer and stays as it is; "
        "start anew with another --output"
    )


def is_extension(run: RunFolder, recipe: ResolvedRecipe) -> bool:
    """Say whether a run is to be resumed with more epochs (or steps) than its own recipe has.

    Raises:
        RecipeError: the recipes differ in anything else that counts; or more epochs would not be trained.
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
            "resume without these changes (only more epochs are possible), or start anew with another --output"
        )
    if longer and run.result.exists() and (reason := read_result(run).facts.get("ended_early")):
        raise RecipeError(
            f"{printable(run.path)} ended before its last epoch already ({reason}: train.patience), so more of them "
            "change nothing; start anew with another --output and a higher train.patience"
        )
    return longer


def _same_data(run: RunFolder, manifest: Manifest) -> Manifest:
    """Return the manifest without the images that the run found broken, if the data is still the same."""
    stored = Manifest.from_json(files.read_json(run.manifest))
    broken = {item.path: item.reason for item in stored.set_aside}
    manifest = manifest.without((image, broken[image.path]) for image in manifest.images if image.path in broken)
    changes = stored.diff(manifest)
    if changes:
        more = f" and {len(changes) - 5} more" if len(changes) > 5 else ""
        raise DataError(
            f"{printable(manifest.root)} has changed since {printable(run.path)} was begun: "
            f"{'; '.join(changes[:5])}{more}; restore it, or start anew with another --output"
        )
    return manifest

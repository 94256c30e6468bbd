"""Collects what is examined: features by the engine of mode freeze, thumbnails and measures; all are cached.

Shapes as in collection.py.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cnn_tl.core.device import fp32_switches_restored
from cnn_tl.core.progress import Observer
from cnn_tl.data.data_warnings import HINT
from cnn_tl.data.loader import in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.data.reading.pool import pools_kept
from cnn_tl.data.views.transforms import resize_and_crop
from cnn_tl.doctor.collection import SIDE, Collection, Features, Thumbnails
from cnn_tl.doctor.headers import Header, read_header
from cnn_tl.doctor.looks import AT_ONCE, look_at, looks_of
from cnn_tl.heads.problem import require_finite
from cnn_tl.networks.pretrained.weights import PACKAGES, has_package
from cnn_tl.recipe.resolved import FreezeRecipe
from cnn_tl.training.context import Run, TwinFinder, open_cache
from cnn_tl.training.dataset import Dataset, Selection
from cnn_tl.training.lazy_network import LazyNetwork, find_network, recall_network
from cnn_tl.training.modes.backend import Backend, choose_backend
from cnn_tl.training.modes.features import DeviceChanged, embed, engine_of, find_features
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.setup import open_run

if TYPE_CHECKING:
    from cnn_tl.data.manifest import Manifest


@dataclass(frozen=True)
class Collected:
    """What was collected.

    Attributes:
        manifest: with the images that could not be read set aside, and its remarks.
        digest: of the manifest as `train` would split it.
        computed: features that the cache lacked.
        more: other backbone -> its features [N, D], where the cache has those of all images.
    """

    collection: Collection
    manifest: Manifest
    digest: str
    backbone: str
    computed: int
    more: Mapping[str, Features]


@contextmanager
def collected(
    recipe: FreezeRecipe,
    observer: Observer,
    manifest: Manifest | None = None,
    *,
    as_on_disk: bool = False,
    find_twins: TwinFinder | None = None,
) -> Iterator[Collected]:
    """Scan the data of a recipe, and compute what the cache lacks of features, thumbnails and measures.

    Inside the block `Collection.view_of` works; the data folder is only read.

    Args:
        manifest: the images, where they have been scanned already.
        find_twins: what `data.groups: twins` uses; None: only equal files are twins.
        as_on_disk: where the folder has no val, leave all of its images in train; `train` would split some off.

    Raises:
        DataError: there are no class folders, or too few images can be read.
        DivergedError: the features are not finite.
        ResourceError, ArtefactError: of the network, its weights, or the device.
    """
    with tempfile.TemporaryDirectory(prefix="cnn-tl-doctor-") as scratch, fp32_switches_restored(), pools_kept():
        folder = RunFolder(Path(scratch) / "run")
        if manifest is None:
            run, dataset, network = open_run(recipe, folder, observer, resume=False, find_twins=find_twins)
        else:
            run = Run(recipe, folder, observer)
            network = find_network(run, recall_network(run), len(manifest.classes))
            dataset = Dataset(run, network.info.preprocessing, Selection(manifest))
        yield _collected(run, dataset, network, as_on_disk=as_on_disk)


def _collected(
    run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork, *, as_on_disk: bool
) -> Collected:
    try:
        backend, features, computed = _features(run, dataset, network, verify_device=False)
    except DeviceChanged:
        backend, features, computed = _features(run, dataset, network, verify_device=True)
    looks, broken = looks_of(run, dataset)
    dataset.set_aside(broken)
    kept = {image.path for image in dataset.manifest.images}
    rows = [index for index, image in enumerate(features.images) if image.path in kept]
    manifest = _unsplit(dataset.manifest) if as_on_disk else dataset.manifest
    own = {image.path: image for image in manifest.images}
    images = tuple(own[features.images[index].path] for index in rows)
    collection = Collection(
        root=dataset.manifest.root,
        classes=dataset.manifest.classes,
        images=images,
        features=features.rows[rows],
        thumbnails=np.stack([looks[image.sha256].thumbnail for image in images]),
        headers=_headers(dataset, images),
        measures=np.stack([looks[image.sha256].measures for image in images]),
        view_of=lambda made: _view_of(made, network, backend),
    )
    more = _cached_elsewhere(run, manifest, images)
    manifest = replace(manifest, notes=tuple(note for note in manifest.notes if not note.endswith(HINT)))
    return Collected(collection, manifest, dataset.manifest.digest(), run.recipe.model.name, computed, more)


def _unsplit(manifest: Manifest) -> Manifest:
    """Return the manifest with the validation images that the scan has split off back in train."""
    if "val" in manifest.splits:
        return manifest
    images = (replace(image, split="train") if image.split == "val" else image for image in manifest.images)
    return replace(manifest, images=tuple(images))


def _cached_elsewhere(
    run: Run[FreezeRecipe], manifest: Manifest, images: tuple[ImageRecord, ...]
) -> dict[str, Features]:
    """Return the features [N, D] of other shipped backbones, of those by which all images have been seen already."""
    found: dict[str, Features] = {}
    for name in PACKAGES:
        if name == run.recipe.model.name or not has_package(name):
            continue
        model = run.recipe.model.model_copy(update={"name": name, "weights": None, "image_size": None})
        other = replace(run, recipe=run.recipe.model_copy(update={"model": model}))
        known = recall_network(other)
        if known is None or known.graph is None:
            continue
        network = find_network(other, known, len(manifest.classes))
        dataset = Dataset(other, network.info.preprocessing, Selection(manifest))
        cached = find_features(dataset, network, open_cache(other), images, 1, choose_backend(other, dataset, network))
        if not cached.missing:
            found[name] = cached[0]
    return found


@dataclass(frozen=True)
class _Rows:
    images: tuple[ImageRecord, ...]
    rows: Features


def _features(
    run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork, *, verify_device: bool
) -> tuple[Backend, _Rows, int]:
    """Return what computes features, those of all images, and how many were computed."""
    cache = open_cache(run)
    if network.cache_folder.is_dir():
        cache.keep(network.cache_folder)
    backend = choose_backend(run, dataset, network, verify_device=verify_device)
    found = find_features(dataset, network, cache, dataset.manifest.images, 1, backend)
    cached = found.total - len(found.missing)
    with run.observer.task("features", found.total):
        run.observer.advance(cached)
        done = embed(dataset, network, [found], backend.at_once(network.info.preprocessing))
    broken = done.broken_among(dataset, found.images)
    dataset.set_aside(broken)
    dataset.report_blank_images()
    found = found.without({image.path for image, _ in broken})
    rows = found[0]
    require_finite(rows)
    return backend, _Rows(found.images, rows), done.rows


def _headers(dataset: Dataset[FreezeRecipe], images: Sequence[ImageRecord]) -> tuple[Header, ...]:
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore")  # Pillow's, about damaged EXIF
        return tuple(pool.map(lambda image: read_header(dataset.manifest.file(image)), images, chunksize=AT_ONCE))


def _view_of(images: Sequence[Image.Image], network: LazyNetwork, backend: Backend) -> tuple[Features, Thumbnails]:
    """Return the features [M, D] and thumbnails [M, S, S, 3] of images in memory."""
    spec = network.info.preprocessing
    features: list[Features] = []
    with engine_of(network, backend) as engine:
        for group in in_groups(images, backend.at_once(spec)):
            features.append(engine.outputs(np.stack([resize_and_crop(image, spec) for image in group])))
    thumbnails = [look_at(image, spec).thumbnail for image in images]
    empty = np.empty((0, network.info.num_features), np.float32)
    return np.concatenate([empty, *features]), np.array(thumbnails, np.uint8).reshape(-1, SIDE, SIDE, 3)

"""The features of all images of a recipe, from the cache or computed by the engine of mode freeze.

Unlike `doctor/collecting.py` this looks at no pixels, so from the cache it reads no image at all.

Shapes: N images, D features.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.device import fp32_switches_restored
from cnn_tl.core.progress import Observer
from cnn_tl.data.groups import group_numbers
from cnn_tl.data.manifest import ImageRecord, Manifest, Split
from cnn_tl.data.reading.pool import pools_kept
from cnn_tl.heads.problem import require_finite
from cnn_tl.recipe.resolved import FreezeRecipe
from cnn_tl.training.context import Run, TwinFinder, open_cache
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.modes.backend import choose_backend
from cnn_tl.training.modes.features import DeviceChanged, embed, find_features
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.setup import open_run

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Embedded:
    """Images and their features.

    Attributes:
        manifest: without the images that could not be read; split as `train` would split it.
        images: those of the wanted splits, in the order of the manifest.
        features: of `images`, not scaled, [N, D].
        backbone: its name in timm.
        computed: features that the cache lacked.
    """

    manifest: Manifest
    images: tuple[ImageRecord, ...]
    features: Features
    backbone: str
    computed: int

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The class of each image, [N]."""
        return np.array([image.label for image in self.images], np.int64)

    @cached_property
    def groups(self) -> NDArray[np.int64] | None:
        """A number for each image, [N], the same within a group and for equal files; None if each image is alone."""
        return group_numbers([image if image.group else replace(image, group=image.sha256) for image in self.images])


def embedded(
    recipe: FreezeRecipe,
    observer: Observer,
    *,
    splits: tuple[Split, ...] = ("train", "val"),
    find_twins: TwinFinder | None = None,
) -> Embedded:
    """Scan the data of a recipe, and return the features of its images; what the cache lacks is computed and kept.

    The data folder is only read.

    Args:
        splits: whose images are wanted.
        find_twins: what `data.groups: twins` uses; None: only equal files are twins.

    Raises:
        DataError: there are no class folders, or too few images can be read.
        DivergedError: the features are not finite.
        ResourceError, ArtefactError: of the network, its weights, or the device.
    """
    with tempfile.TemporaryDirectory(prefix="cnn-tl-advice-") as scratch, fp32_switches_restored(), pools_kept():
        folder = RunFolder(Path(scratch) / "run")
        run, dataset, network = open_run(recipe, folder, observer, resume=False, find_twins=find_twins)
        try:
            return _embedded(run, dataset, network, splits, verify_device=False)
        except DeviceChanged:
            return _embedded(run, dataset, network, splits, verify_device=True)


def _embedded(
    run: Run[FreezeRecipe],
    dataset: Dataset[FreezeRecipe],
    network: LazyNetwork,
    splits: tuple[Split, ...],
    *,
    verify_device: bool,
) -> Embedded:
    cache = open_cache(run)
    if network.cache_folder.is_dir():
        cache.keep(network.cache_folder)
    backend = choose_backend(run, dataset, network, verify_device=verify_device)
    wanted = [image for image in dataset.manifest.images if image.split in splits]
    found = find_features(dataset, network, cache, wanted, 1, backend)
    with run.observer.task("features", found.total):
        run.observer.advance(found.total - len(found.missing))
        done = embed(dataset, network, [found], backend.at_once(network.info.preprocessing))
    broken = done.broken_among(dataset, found.images)
    dataset.set_aside(broken)
    found = found.without({image.path for image, _ in broken})
    features_ND = found[0]
    require_finite(features_ND)
    return Embedded(dataset.manifest, found.images, features_ND, run.recipe.model.name, done.rows)

"""A candidate that can run here: its network, how fast that is, and its features and scores on samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cnn_tl.advising.recommend.candidates import Candidate
from cnn_tl.advising.recommend.probing import FOLDS, REPEATS, Probe, Scores, probe_of
from cnn_tl.advising.recommend.sample import Sample
from cnn_tl.data.groups import group_numbers
from cnn_tl.data.loader import in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.features.cache_keys import PLAIN, row_key
from cnn_tl.features.devices import noise
from cnn_tl.recipe.resolved import FreezeRecipe
from cnn_tl.training.context import Run, open_cache
from cnn_tl.training.dataset import Dataset, Selection
from cnn_tl.training.estimate import DECODE_SECONDS, fit_seconds
from cnn_tl.training.lazy_network import find_network, recall_network
from cnn_tl.training.modes.backend import choose_backend
from cnn_tl.training.modes.features import DeviceChanged, Features, SplitFeatures, embed, engine_of, find_features

TIMED = 16
"""Images of a pass on a CPU."""

CHECK_SECONDS = 5.0
"""How long features are computed, at most, before the time is looked at again."""


@dataclass
class Field:
    """What all candidates share.

    Attributes:
        run: of the recipe; its model is replaced.
        selection: the images; those that turn out to be broken are missing from it for all.
        sample: of the training images.
        repeats: of the cross-validation.
    """

    run: Run[FreezeRecipe]
    selection: Selection
    sample: Sample
    repeats: int = REPEATS

    def images(self, size: int) -> list[ImageRecord]:
        """Return the readable images of a sample."""
        usable = {image.path for image in self.selection.manifest.images}
        return [image for image in self.sample.first(size) if image.path in usable]

    def probe(self, size: int) -> Probe:
        """Return the folds of a sample, the same for all candidates."""
        images = self.images(size)
        labels = np.array([image.label for image in images], np.int64)
        return probe_of(
            labels, group_numbers(images), self.selection.manifest.classes, self.run.recipe.seed, self.repeats
        )


class Entrant:
    """A candidate whose weights are here and fit; the `Runner` of a race.

    Args:
        field: what all candidates share.

    Attributes:
        computed: features that the cache lacked.

    Raises:
        UsageError: the model does not take images of that size.
        ArtefactError: weights that do not fit. ResourceError: they are not here, or the device is not.
    """

    def __init__(self, candidate: Candidate, field: Field) -> None:
        self.candidate, self._field = candidate, field
        model = field.run.recipe.model.model_copy(
            update={"name": candidate.model, "weights": candidate.weights, "image_size": candidate.image_size}
        )
        self._run = replace(field.run, recipe=field.run.recipe.model_copy(update={"model": model}))
        self.network = find_network(self._run, recall_network(self._run), len(field.selection.manifest.classes))
        self._dataset = Dataset(self._run, self.network.info.preprocessing, field.selection)
        self.backend = choose_backend(self._run, self._dataset, self.network)
        self._pass_seconds = math.inf
        try:
            self.time_a_pass()
        except DeviceChanged:
            self.backend = choose_backend(self._run, self._dataset, self.network, verify_device=True)
            self.time_a_pass()
        self._seconds_per_row = self._pass_seconds / self._timed + DECODE_SECONDS / self._run.parallel_reads
        self._fit_factor = 1.0
        self.computed = 0
        self._cache = open_cache(self._run)
        if self.network.cache_folder.is_dir():
            self._cache.keep(self.network.cache_folder)  # not to be evicted by these features
        self._held: dict[bytes, Features] = {}
        self._lacking = self._not_cached()

    @property
    def images_per_second(self) -> float:
        """Throughput of the network alone on this machine, in the fastest of the passes that were timed."""
        return self._timed / max(self._pass_seconds, 1e-9)

    @property
    def _timed(self) -> int:
        """Images of a pass that is timed."""
        return TIMED if self.backend.device.kind == "cpu" else self.backend.at_once(self.network.info.preprocessing)

    def time_a_pass(self) -> None:
        """Time the network on images of noise, after a warm-up."""
        pixels_NHW3 = noise(self.network.info.preprocessing, self._timed)
        if self.backend.engine == "torch":
            self.network.build()
            if not self.network.is_on(self.backend.device):
                raise DeviceChanged
        with engine_of(self.network, self.backend) as engine:
            engine.outputs(pixels_NHW3[:2])
            started = time.perf_counter()
            engine.outputs(pixels_NHW3)
            self._pass_seconds = min(self._pass_seconds, time.perf_counter() - started)

    @property
    def image_size(self) -> int:
        """Side of its images in pixels."""
        return self.network.info.preprocessing.height

    @property
    def parameters(self) -> int:
        """Number of parameters, with a linear head."""
        info = self.network.info
        return info.backbone_parameters + (info.num_features + 1) * len(self._field.selection.manifest.classes)

    def seconds(self, size: int) -> float:
        """Return the expected time for judging it on a sample."""
        missing = sum(image.sha256 in self._lacking for image in self._field.images(size))
        return missing * self._seconds_per_row + self._fit_factor * self.expected_fits(size)

    def training_seconds(self) -> tuple[float, float]:
        """Return the expected time of a run on all images, and the share of its features that is cached."""
        manifest = self._field.selection.manifest
        contents = {image.sha256 for image in (*manifest.of("train"), *manifest.of("val"))}
        missing = len(contents & self._lacking)
        fit = self._one_fit(len(manifest.of("train")))
        return missing * self._seconds_per_row + fit + 1, 1 - missing / len(contents)

    def embed(self, size: int, check: Callable[[], None]) -> None:
        """Compute what its features on a sample lack.

        Raises:
            DataError: too many images cannot be read.
        """
        found = self._features(self._field.images(size))
        at_once = self.backend.at_once(self.network.info.preprocessing)
        with self._run.observer.task(f"{self.candidate}", found.total):
            self._run.observer.advance(found.total - len(found.missing))
            rows = max(at_once, int(CHECK_SECONDS / self._seconds_per_row) // at_once * at_once)
            for part in in_groups(found.missing, rows):
                check()
                done = embed(self._dataset, self.network, [replace(found, missing=list(part))], at_once)
                self.computed += done.rows
                self._lacking -= {wanted.image.sha256 for wanted in part}
                if done.rows >= TIMED:
                    self._seconds_per_row = done.seconds / done.rows
                self._dataset.set_aside(done.broken_among(self._dataset, found.images))

    def judge(self, size: int, check: Callable[[], None]) -> Scores:
        """Return the scores of the judged images of a sample, on which it has been embedded."""
        images = self._field.images(size)
        features_ND = self._features(images)[0]
        started = time.perf_counter()
        with self._run.observer.task(f"judging {self.candidate}", None):
            scores = self._field.probe(size).scores(features_ND, self._run.recipe.head, check)
        self._fit_factor = (time.perf_counter() - started) / max(self.expected_fits(size), 1e-6)
        return scores

    def nbytes(self) -> int:
        """Return the size of the network with a linear head, in bytes."""
        info = self.network.info
        backbone = sum(array.nbytes for array in self.network.backbone_tensors(self._run.observer.note).values())
        return backbone + 4 * (info.num_features + 1) * len(self._field.selection.manifest.classes)

    def _features(self, images: list[ImageRecord]) -> SplitFeatures:
        found = find_features(self._dataset, self.network, self._cache, images, 1, self.backend)
        found.held = self._held
        found.missing = [one for one in found.missing if found.key(one) not in self._held]
        return found

    def _not_cached(self) -> set[str]:
        """Return the SHA-256 of the images whose features the cache lacks."""
        info, seed = self.network.info, self._run.recipe.seed
        space = self._cache.space(self.backend.facts(info), shape=(info.num_features,))
        contents = {image.sha256 for image in self._field.selection.manifest.images}
        return {one for one in contents if row_key(one, PLAIN, seed, self._run.augmentation) not in space}

    def _one_fit(self, images: int) -> float:
        kind, classes = self._run.recipe.head.kind, len(self._field.selection.manifest.classes)
        return fit_seconds(kind, max(images, 1), 1, self.network.info.num_features, classes)

    def expected_fits(self, size: int) -> float:
        """Return the expected time of all fits on a sample, in seconds."""
        return FOLDS * self._field.repeats * self._one_fit(size * (FOLDS - 1) // FOLDS)

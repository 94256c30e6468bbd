"""Mode `freeze`: the backbone stays as it is, each view of an image passes through it once, and a head is fitted.

`plan` chooses what computes features and looks up which of them are cached. `run` computes the missing ones and fits
the head. On a CPU onnxruntime computes, without torch; on a GPU torch is needed if features are missing.

A stopped run has no checkpoint: the features computed so far are in the cache, so a resumed run computes the rest.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from cnn_tl.abstention.evidence import Evidence
from cnn_tl.core.cpu import release_freed_memory
from cnn_tl.core.errors import DivergedError
from cnn_tl.core.formatting import counted
from cnn_tl.core.progress import FeaturePlan, Plan
from cnn_tl.data.groups import group_numbers
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.heads import HEADS, FittedHead, Problem, class_weights
from cnn_tl.heads.auto import choose
from cnn_tl.recipe.resolved import AdamwHead, FreezeRecipe, HeadRecipe, KnnHead, PrototypeHead
from cnn_tl.training.context import Run, open_cache
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.estimate import DECODE_SECONDS, Planned, description, fit_seconds
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.modes.backend import Backend, choose_backend
from cnn_tl.training.modes.embedding_stats import merged
from cnn_tl.training.modes.evidence import evidence_of
from cnn_tl.training.modes.features import (
    DeviceChanged,
    SplitFeatures,
    collect_rows,
    embed,
    find_features,
    own_share,
)
from cnn_tl.training.outcome import Facts, FeatureReads, HeadFit, Logits, Outcome

ADAMW_STEP_SECONDS = 0.002
"""One step of a head that is trained by AdamW on features."""

TORCH_SECONDS = 2.0
"""Loading torch and timm, if the network has to run and they are not loaded yet."""


@dataclass
class FrozenFeatures:
    """The features that the head needs: how they are computed, and which of them are cached.

    Attributes:
        backend: what computes them.
    """

    backend: Backend
    train: SplitFeatures
    val: SplitFeatures

    @property
    def batch_size(self) -> int:
        """Images that the engine gets at once."""
        spec = self.train.network.info.preprocessing
        return self.train.run.recipe.train.batch_size or self.backend.at_once(spec)

    @property
    def to_compute(self) -> int:
        """Number of features that the cache lacks."""
        return len(self.train.missing) + len(self.val.missing)

    @property
    def cached(self) -> int:
        """Number of features that the cache has."""
        return self.train.total + self.val.total - self.to_compute

    @property
    def images_to_read(self) -> list[ImageRecord]:
        """The images whose features the cache lacks, copies included."""
        contents = {wanted.image.sha256 for wanted in self.val.missing + self.train.missing}
        return [image for image in self.val.images + self.train.images if image.sha256 in contents]


def plan(run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork) -> Planned[FrozenFeatures]:
    """Look up the cached features and estimate the time for the rest.

    A plan that writes nothing (`run.writes` is False) also decodes every image that a run would have to read.
    """
    found = look_up(run, dataset, network)
    # images with cached features were readable before and are not read again
    if not run.writes and dataset.check_images(found.images_to_read, keep=False).any_broken:
        found = look_up(run, dataset, network)
    return Planned(_make_plan(run, dataset, network, found), found)


def run(run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork, found: FrozenFeatures) -> Outcome:
    """Compute the features that are missing and fit the head.

    Raises:
        DataError: too many broken images, or files that changed.
        DivergedError: the features or the head's logits are not finite.
        Stopped: a signal came; `--resume` continues.
    """
    try:
        return _run(run, dataset, network, found)
    except DeviceChanged:
        run.observer.note("the device is not the remembered one; looking up the features of this one")
        return _run(run, dataset, network, look_up(run, dataset, network, verify_device=True))


def look_up(
    run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork, *, verify_device: bool = False
) -> FrozenFeatures:
    """Choose what computes features, and look up the cached ones.

    Args:
        verify_device: see `choose_backend`.
    """
    cache = open_cache(run)
    if network.cache_folder.is_dir():
        cache.keep(network.cache_folder)  # not to be evicted by this run's features
    backend = choose_backend(run, dataset, network, verify_device=verify_device)
    train_images, val_images = dataset.manifest.of("train"), dataset.manifest.of("val")
    train = find_features(dataset, network, cache, train_images, run.recipe.views, backend)
    val = find_features(dataset, network, cache, val_images, 1, backend)
    train.skip_rows_of(val)
    return FrozenFeatures(backend, train, val)


def _run(
    run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork, found: FrozenFeatures
) -> Outcome:
    train, val, reads = _compute(run, dataset, network, found)
    head: FittedHead | None = None  # only in the first process: it cannot be sent to the others
    evidence: Evidence | None = None

    def fit() -> tuple[Logits, HeadFit]:
        nonlocal head, evidence
        head, logits, fitted = _fit(run, dataset, network, train, val)
        evidence = evidence_of(head, train, val, logits, seed=run.recipe.seed)
        head = replace(head, held_out=None)  # may be larger than the features
        return logits, fitted

    logits, fitted = run.world.first(fit)
    return Outcome(logits, Facts(features=reads, head=fitted), head, evidence)


def _compute(
    run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork, found: FrozenFeatures
) -> tuple[SplitFeatures, SplitFeatures, FeatureReads]:
    """Compute the missing features, validation first; return both splits without broken images, and the counts."""
    world, splits = run.world, [found.val, found.train]
    if not world.is_alone and not all(world.gather(network.is_on(found.backend.device))):
        raise DeviceChanged
    mine = [own_share(split) for split in splits]
    total = found.cached + sum(len(split.missing) for split in mine)
    with world.together(), run.observer.task("features", total):
        run.observer.advance(found.cached)
        own = embed(dataset, network, mine, found.batch_size)
    release_freed_memory()
    for split in splits:
        collect_rows(split)
    done = merged(world.gather(own))
    broken = done.broken_among(dataset, found.val.images + found.train.images)
    dataset.set_aside(broken)
    dataset.report_blank_images()
    reads = FeatureReads(
        computed=done.rows,
        from_cache=found.cached,
        way=str(found.backend),
        device=found.backend.device.name,
        batch_size=1 if found.backend.device.kind == "cpu" else found.batch_size,
        **done.rates(run.parallel_reads * world.local_size),
    )
    paths = {image.path for image, _ in broken}
    return found.train.without(paths), found.val.without(paths), reads


def _fit(
    run: Run[FreezeRecipe],
    dataset: Dataset[FreezeRecipe],
    network: LazyNetwork,
    train: SplitFeatures,
    val: SplitFeatures,
) -> tuple[FittedHead, Logits, HeadFit]:
    started = time.monotonic()
    settings, classes = run.recipe.head, dataset.manifest.classes
    labels = np.array([image.label for image in train.images], dtype=np.int64)
    problem = Problem(
        views=train,
        labels=labels,
        num_classes=len(classes),
        class_weights=class_weights(settings.class_weights, labels, classes),
        seed=run.recipe.seed,
        check=run.raise_if_stopped,
        device=str(network.device) if network.is_built else "cpu",  # a fit does not wait for an import of torch
        groups=group_numbers(train.images),
    )
    head = HEADS[settings.kind](problem, settings)
    seconds = round(time.monotonic() - started, 3)
    if not head.facts.get("converged", True):
        run.observer.warn("the fit of the head has not converged; a larger head.penalty converges sooner")
    logits = head.logits(val[0])
    if not np.isfinite(logits).all():
        raise DivergedError("the fitted head gives logits that are not finite; try a larger head.penalty")
    return head, logits, HeadFit(head.facts, seconds)


def _make_plan(
    run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork, found: FrozenFeatures
) -> Plan:
    info = network.info
    trainable = _head_parameters(run, info.num_features, len(dataset.manifest.classes))
    seconds = embedding_seconds(run, network, found)
    if network.is_built:
        seconds += network.build().loading_seconds
    return Plan(
        **description(run, dataset, network),
        trainable=trainable,
        total=info.backbone_parameters + trainable,
        device=found.backend.device.name,
        precision=str(found.backend),
        schedule=f"{_describe_passes(run, found)}, then the head ({head_kind(run, dataset, network, found)})",
        phases=None,
        features=feature_plan(run, network, found),
        images=None,
        sources=None,
        seconds=seconds + head_seconds(run, dataset, network, found) + 1,
    )


def embedding_seconds(run: Run[HeadRecipe], network: LazyNetwork, found: FrozenFeatures) -> float:
    """Estimate how many seconds the missing features take; a few images are run for it where that is quick."""
    if not found.to_compute:
        return 0.0
    each = found.backend.seconds(network) + DECODE_SECONDS / run.parallel_reads  # both need the cores of a CPU
    loading = 0.0 if network.is_built or found.backend.engine == "onnxruntime" else TORCH_SECONDS
    return loading + found.to_compute * each


def _describe_passes(run: Run[FreezeRecipe], found: FrozenFeatures) -> str:
    views = run.recipe.features.views
    if not found.to_compute:
        return "features from the cache"
    if views == "fresh":
        return f"a fresh view of each image in each of {counted(run.recipe.views, 'epoch')}"
    return "one pass for each image" if views == 1 else f"one pass for each of {views} views of an image"


def head_kind(run: Run[HeadRecipe], dataset: Dataset, network: LazyNetwork, found: FrozenFeatures) -> str:
    """Return the kind of head that is fitted; if `auto` chooses ridge alone, also why."""
    kind, images = run.recipe.head.kind, len(found.train.images)
    if kind != "auto":
        return kind
    return str(choose(images, found.train.views, network.info.num_features, len(dataset.manifest.classes)))


def feature_plan(run: Run[HeadRecipe], network: LazyNetwork, found: FrozenFeatures) -> FeaturePlan:
    """Return how many features must be computed and are cached, and how many bytes the cache will grow by."""
    settings = run.recipe.features
    kept = settings.cache and settings.views != "fresh"
    nbytes = found.to_compute * network.info.num_features * 4
    return FeaturePlan(found.to_compute, found.cached, nbytes if kept else 0)


def head_seconds(run: Run[HeadRecipe], dataset: Dataset, network: LazyNetwork, found: FrozenFeatures) -> float:
    """Estimate how many seconds the fit of the head takes, from the size of the problem."""
    head, images = run.recipe.head, len(found.train.images)
    if isinstance(head, AdamwHead):
        return -(-images // head.batch_size) * head.epochs * ADAMW_STEP_SECONDS
    if isinstance(head, KnnHead | PrototypeHead):
        return 0.0
    return fit_seconds(head.kind, images, found.train.views, network.info.num_features, len(dataset.manifest.classes))


def _head_parameters(run: Run[FreezeRecipe], num_features: int, num_classes: int) -> int:
    head = run.recipe.head
    if isinstance(head, KnnHead):
        return 0
    if isinstance(head, AdamwHead) and head.hidden is not None:
        return (num_features + 1) * head.hidden + (head.hidden + 1) * num_classes
    return (num_features + 1) * num_classes

"""Mode `freeze`: the backbone does not change, so each view of an image passes it once, and a head is fitted on that.

`plan` chooses how images pass the network and looks up which features are cached; `run` computes the missing ones,
validation first, and fits the head. Without missing features neither needs torch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from cnn_tl.core.cpu import release_freed_memory
from cnn_tl.core.errors import DivergedError
from cnn_tl.core.formatting import counted
from cnn_tl.core.progress import FeaturePlan, Plan
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.features.speed import Speeds, Way
from cnn_tl.heads import HEADS, FittedHead, Problem, class_weights
from cnn_tl.heads.auto import choose
from cnn_tl.recipe.resolved import AdamwHead, FreezeRecipe, HeadRecipe, KnnHead, PrototypeHead
from cnn_tl.training.context import Run, open_cache
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.estimate import DECODE_SECONDS, Planned, description, fit_seconds
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.modes.embedding_stats import merged
from cnn_tl.training.modes.embedding_way import choose_way
from cnn_tl.training.modes.features import (
    EXACT,
    OtherDevice,
    SplitFeatures,
    bring_together,
    embed,
    find_features,
    share_of,
)
from cnn_tl.training.outcome import Facts, FeatureReads, HeadFit, Logits, Outcome

ADAMW_STEP_SECONDS = 0.002
"""One step of a head on features."""

TORCH_SECONDS = 2.0
"""Loading torch and timm, where they are not loaded yet and the network has to run."""


@dataclass
class FrozenFeatures:
    """The features that the head needs: how they are computed, and which of them are cached."""

    speeds: Speeds
    way: Way
    train: SplitFeatures
    val: SplitFeatures

    @property
    def batch_size(self) -> int:
        """Images that pass the network at once."""
        return self.train.run.recipe.train.batch_size or self.speeds.at_once

    @property
    def to_compute(self) -> int:
        """Features that the cache lacks."""
        return len(self.train.missing) + len(self.val.missing)

    @property
    def cached(self) -> int:
        """Features that the cache has."""
        return self.train.wanted + self.val.wanted - self.to_compute

    @property
    def images_to_read(self) -> list[ImageRecord]:
        """The images whose features the cache lacks, copies included."""
        contents = {wanted.image.sha256 for wanted in self.val.missing + self.train.missing}
        return [image for image in self.val.images + self.train.images if image.sha256 in contents]


def plan(run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork) -> Planned[FrozenFeatures]:
    """Look up what the cache has and estimate the rest; where `run` writes nothing, decode every image to be read."""
    found = look_up(run, dataset, network)
    # an image whose features are cached could be read once, and is not read again
    if not run.writes and dataset.check_images(found.images_to_read, keep=False).any_broken:
        found = look_up(run, dataset, network)
    return Planned(_shown(run, dataset, network, found), found)


def look_up(
    run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork, *, verify_device: bool = False
) -> FrozenFeatures:
    """Find out how fast this machine is, choose how images pass the network, and look up what the cache has.

    Args:
        verify_device: see `choose_way`.
    """
    cache = open_cache(run)
    if network.memory.is_dir():
        cache.keep(network.memory)
    train_images, val_images = dataset.manifest.of("train"), dataset.manifest.of("val")
    by_way: dict[Way, SplitFeatures] = {}

    def of_training(way: Way, speeds: Speeds) -> SplitFeatures:
        if way not in by_way:
            by_way[way] = find_features(dataset, network, cache, train_images, run.recipe.views, way, speeds)
        return by_way[way]

    def missing(way: Way, speeds: Speeds) -> int:
        return len(of_training(way, speeds).missing)

    speeds, way = run.world.first(lambda: choose_way(run, network, missing, verify_device=verify_device))
    val = find_features(dataset, network, cache, val_images, 1, EXACT, speeds)
    train = of_training(way, speeds)
    train.leave_to(val)
    return FrozenFeatures(speeds, way, train, val)


def run(run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork, found: FrozenFeatures) -> Outcome:
    """Compute the features that are missing and fit the head.

    Raises:
        DataError: too many broken images, or files that changed.
        DivergedError: the backbone's features are not finite.
        Stopped: a signal came; `--resume` continues.
    """
    try:
        return _run(run, dataset, network, found)
    except OtherDevice:
        run.observer.note("this machine has another device than when it was measured; it is measured again")
        return _run(run, dataset, network, look_up(run, dataset, network, verify_device=True))


def _run(
    run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork, found: FrozenFeatures
) -> Outcome:
    train, val, reads = _compute(run, dataset, network, found)
    head: FittedHead | None = None  # stays in the first process: it cannot be sent to the others

    def fit() -> tuple[Logits, HeadFit]:
        nonlocal head
        head, logits, fitted = _fit(run, dataset, train, val)
        return logits, fitted

    logits, fitted = run.world.first(fit)
    return Outcome(logits, Facts(features=reads, head=fitted), head)


def _compute(
    run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork, found: FrozenFeatures
) -> tuple[SplitFeatures, SplitFeatures, FeatureReads]:
    """Compute what is missing, validation first; return both splits without the images that are broken."""
    world, splits = run.world, [found.val, found.train]
    if not world.is_alone and not all(world.gather(found.speeds.is_of(network.device))):
        raise OtherDevice
    mine = [share_of(split) for split in splits]
    total = found.cached + sum(len(split.missing) for split in mine)
    with world.together(), run.observer.task("features", total):
        run.observer.advance(found.cached)
        own = embed(dataset, network, mine, found.batch_size)
    release_freed_memory()
    for split in splits:
        bring_together(split)
    done = merged(world.gather(own))
    broken = done.broken_among(dataset, found.val.images + found.train.images)
    dataset.set_aside(broken)
    dataset.report_blank_images()
    reads = FeatureReads(
        computed=done.rows,
        from_cache=found.cached,
        way=str(found.way),
        device=found.speeds.device_name,
        batch_size=found.batch_size,
        **done.rates(run.parallel_reads * world.local_size),
    )
    paths = {image.path for image, _ in broken}
    return found.train.without(paths), found.val.without(paths), reads


def _fit(
    run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], train: SplitFeatures, val: SplitFeatures
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
    )
    head = HEADS[settings.kind](problem, settings)
    seconds = round(time.monotonic() - started, 3)
    if not head.facts.get("converged", True):
        run.observer.warn("the head was still improving when its fit ended; a larger head.penalty converges sooner")
    logits = head.logits(val[0])
    if not np.isfinite(logits).all():
        raise DivergedError("the fitted head gives logits that are not finite; try a larger head.penalty")
    return head, logits, HeadFit(head.facts, seconds)


def _shown(run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork, found: FrozenFeatures) -> Plan:
    speeds, way, info = found.speeds, found.way, network.info
    trainable = _head_parameters(run, info.num_features, len(dataset.manifest.classes))
    fast, exact = speeds.seconds.get(str(way), speeds.seconds["fp32"]), speeds.seconds["fp32"]
    decode = DECODE_SECONDS / run.parallel_reads
    seconds = len(found.train.missing) * max(fast, decode) + len(found.val.missing) * max(exact, decode)
    if found.to_compute:
        compiling = max(0.0, speeds.compile_seconds.get(str(way), 0.0)) if found.train.missing else 0.0
        seconds += compiling + (0.0 if network.is_built else TORCH_SECONDS)
    if network.is_built:
        seconds += network.build().loading_seconds
    return Plan(
        **description(run, dataset, network),
        trainable=trainable,
        total=info.backbone_parameters + trainable,
        device=speeds.device_name,
        precision=str(way),
        schedule=f"{_passes(run, found)}, then the head ({head_kind(run, dataset, network, found)})",
        phases=None,
        features=feature_plan(run, network, found),
        images=None,
        seconds=seconds + head_seconds(run, dataset, network, found) + 1,
    )


def feature_plan(run: Run[HeadRecipe], network: LazyNetwork, found: FrozenFeatures) -> FeaturePlan:
    """Return how many features are computed, kept and cached."""
    settings = run.recipe.features
    kept = settings.cache and settings.views != "fresh"
    nbytes = found.to_compute * network.info.num_features * 4
    return FeaturePlan(found.to_compute, found.cached, nbytes if kept else 0)


def head_seconds(run: Run[HeadRecipe], dataset: Dataset, network: LazyNetwork, found: FrozenFeatures) -> float:
    """Estimate what fitting the head takes, from the size of its problem."""
    head, images = run.recipe.head, len(found.train.images)
    if isinstance(head, AdamwHead):
        return -(-images // head.batch_size) * head.epochs * ADAMW_STEP_SECONDS
    if isinstance(head, KnnHead | PrototypeHead):
        return 0.0
    return fit_seconds(head.kind, images, found.train.views, network.info.num_features, len(dataset.manifest.classes))


def head_kind(run: Run[HeadRecipe], dataset: Dataset, network: LazyNetwork, found: FrozenFeatures) -> str:
    """Return the kind of head that is fitted, and why, where `auto` chooses another one than lbfgs."""
    kind, images = run.recipe.head.kind, len(found.train.images)
    if kind != "auto":
        return kind
    return str(choose(images, found.train.views, network.info.num_features, len(dataset.manifest.classes)))


def _head_parameters(run: Run[FreezeRecipe], num_features: int, num_classes: int) -> int:
    head = run.recipe.head
    if isinstance(head, KnnHead):
        return 0
    if isinstance(head, AdamwHead) and head.hidden is not None:
        return (num_features + 1) * head.hidden + (head.hidden + 1) * num_classes
    return (num_features + 1) * num_classes


def _passes(run: Run[FreezeRecipe], found: FrozenFeatures) -> str:
    views = run.recipe.features.views
    if not found.to_compute:
        return "features from the cache"
    if views == "fresh":
        return f"a fresh view of each image in each of {counted(run.recipe.views, 'epoch')}"
    return "one pass for each image" if views == 1 else f"one pass for each of {views} views of an image"

"""Mode `freeze`: the backbone stands still, so each view of an image passes it once, and heads are fitted on that."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cnn_tl.core.cpu import release_freed_memory
from cnn_tl.core.device import Precision, has_fast_bf16
from cnn_tl.core.errors import CnnTlError, DivergedError
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.features import speed
from cnn_tl.features.speed import Speeds, Way
from cnn_tl.heads import HEADS, FittedHead, Problem, class_weights
from cnn_tl.recipe.resolved import FreezeRecipe
from cnn_tl.training.context import Logits, Session
from cnn_tl.training.modes.features import EXACT, OtherDevice, Part, bring_together, embed, merged, part_of, share_of
from cnn_tl.training.step import precision as number_format
from cnn_tl.training.store import open_cache


@dataclass
class Preparation:
    """What is known before the work begins: how it will be done, and how much of it the cache has done already."""

    speeds: Speeds
    way: Way
    train: Part
    val: Part

    @property
    def batch_size(self) -> int:
        """Images that pass the network at once."""
        return self.train.session.recipe.train.batch_size or self.speeds.at_once

    @property
    def to_compute(self) -> int:
        """Features that the cache lacks."""
        return len(self.train.missing) + len(self.val.missing)

    @property
    def images_to_read(self) -> list[ImageRecord]:
        """The images whose features the cache lacks, copies of each other included."""
        contents = {wanted.image.sha256 for wanted in self.val.missing + self.train.missing}
        return [image for image in self.val.images + self.train.images if image.sha256 in contents]

    @property
    def bytes_to_keep(self) -> int:
        """What they will take in the cache, in bytes."""
        return self.to_compute * self.train.session.card.num_features * 4

    @property
    def at_hand(self) -> int:
        """Features that the cache has."""
        return self.train.wanted + self.val.wanted - self.to_compute


def prepare(session: Session[FreezeRecipe], *, write: bool = True) -> Preparation:
    """Find out how fast this machine is, choose the way, and look up what the cache has.

    Args:
        write: keep what was measured; False leaves no trace.
    """
    cache = open_cache(session.recipe, session.run, session.observer, read_only=not write)
    if session.memory.is_dir():
        cache.keep(session.memory)
    train_images, val_images = session.manifest.of("train"), session.manifest.of("val")
    parts: dict[Way, Part] = {}

    def part(way: Way, speeds: Speeds) -> Part:
        if way not in parts:
            parts[way] = part_of(session, cache, train_images, session.recipe.views, way, speeds)
        return parts[way]

    def missing(way: Way, speeds: Speeds) -> int:
        return len(part(way, speeds).missing)

    speeds, way = session.world.first(lambda: _choose(session, missing, write=write))
    val = part_of(session, cache, val_images, 1, EXACT, speeds)
    train_part = part(way, speeds)
    train_part.leave_to(val)
    return Preparation(speeds, way, train_part, val)


def _choose(
    session: Session[FreezeRecipe], missing: Callable[[Way, Speeds], int], *, write: bool
) -> tuple[Speeds, Way]:
    """Return how fast this machine is, and the way in which the training images will pass the network.

    Args:
        missing: how many features the cache lacks of those that are computed in a way.
    """
    speeds = _speeds(session, write=write)
    precision = speed.choose_precision(speeds, session.recipe.run.precision)
    wanted, may_try = session.recipe.run.compile, write and session.memory.is_dir()
    if may_try and speed.worth_trying_to_compile(speeds, precision, wanted, missing(Way(precision), speeds)):
        session.observer.note("so much is to be computed that compiling the network may pay; trying for half a minute")
        tried = speed.measure_compiled(session.network, session.device, speeds, precision)
        speeds = tried if _remember(session, tried) else speeds
    return speeds, speed.choose_way(speeds, precision, wanted, lambda way: missing(way, speeds))


def train(session: Session[FreezeRecipe], prepared: Preparation) -> Logits:
    """Compute the features that are missing and fit the head; return the validation logits [N, K].

    The fitted head is left in `session.head`, of the first process where there are several.

    Raises:
        DataError: too many broken images, or files that changed.
        DivergedError: the backbone's features are not finite.
        Stopped: a signal came; `--resume` goes on.
    """
    try:
        return _train(session, prepared)
    except OtherDevice:
        session.observer.note("this machine has another device than when it was measured; it is measured anew")
        return _train(session, prepare(session))


def _train(session: Session[FreezeRecipe], prepared: Preparation) -> Logits:
    train_part, val_part = _compute(session, prepared)
    return session.world.first(lambda: _fit(session, train_part, val_part))


def _fit(session: Session[FreezeRecipe], train_part: Part, val_part: Part) -> Logits:
    started = time.monotonic()
    settings = session.recipe.head
    labels = np.array([image.label for image in train_part.images], dtype=np.int64)
    problem = Problem(
        views=train_part,
        labels=labels,
        num_classes=len(session.manifest.classes),
        class_weights=class_weights(settings.class_weights, labels, session.manifest.classes),
        seed=session.recipe.seed,
        check=session.raise_if_stopped,
    )
    session.head = HEADS[settings.kind](problem, settings)
    seconds = round(time.monotonic() - started, 3)
    _warn_of(session, session.head)
    logits = session.head.logits(val_part[0])
    if not np.isfinite(logits).all():
        raise DivergedError("the fitted head gives logits that are not finite; try a larger head.penalty")
    session.facts["head"] = session.head.facts | {"seconds": seconds}
    return logits


def _compute(session: Session[FreezeRecipe], prepared: Preparation) -> tuple[Part, Part]:
    """Compute what is missing, validation first; return both parts without the images that are broken."""
    world, parts = session.world, [prepared.val, prepared.train]
    if not world.is_alone and not all(world.gather(prepared.speeds.is_of(session.device))):
        raise OtherDevice
    mine = [share_of(part) for part in parts]
    total = prepared.at_hand + sum(len(part.missing) for part in mine)
    with world.together(), session.observer.task("features", total):
        session.observer.advance(prepared.at_hand)
        own = embed(session, mine, prepared.batch_size)
    release_freed_memory()
    for part in parts:
        bring_together(part)
    done = merged(world.gather(own))
    broken = done.broken_of(session, prepared.val.images + prepared.train.images)
    session.set_aside(broken)
    session.remark_on_looks()
    session.facts["features"] = {
        "computed": done.rows,
        "from_cache": prepared.at_hand,
        "way": str(prepared.way),
        "device": prepared.speeds.device_name,
        "batch_size": prepared.batch_size,
        **done.facts(session.read_at_once * world.local_size),
    }
    paths = {image.path for image, _ in broken}
    return prepared.train.without(paths), prepared.val.without(paths)


def _speeds(session: Session[FreezeRecipe], *, write: bool) -> Speeds:
    """Return what is known of this machine's speed with this network, measuring what is not.

    Where nothing can be remembered, a fixed rule chooses the number format: the stopwatch might choose another one
    the next time, and the same recipe would give other weights.
    """
    recipe = session.recipe
    needed: list[Precision] = ["fp32", "bf16"] if recipe.run.precision == "bf16" else ["fp32"]
    known = speed.recall(session.memory, recipe.run.device)
    if known is not None and "device" not in vars(session) and not known.lacks(needed):
        return known  # without torch; `embed` looks whether it is still this device
    if known is not None and not known.is_of(session.device):
        known = None
    if known is not None and not known.lacks(needed):
        return known
    if known is None and has_fast_bf16(session.device):
        needed = ["fp32", "bf16"]
    with session.observer.task("measuring this machine", None):
        speeds = speed.measure(session.network, session.device, formats=needed, known=known)
    release_freed_memory()
    will_be_remembered = _remember(session, speeds) if write else recipe.features.cache
    if known is None and not will_be_remembered:
        return replace(speeds, precision=number_format.by_rule(session.network, session.device))
    return speeds


def _remember(session: Session[FreezeRecipe], speeds: Speeds) -> bool:
    """Keep what was measured for the next run; return whether that was possible."""
    if not session.memory.is_dir():
        return False
    try:
        speed.remember(session.memory, session.recipe.run.device, speeds)
    except CnnTlError as error:
        session.observer.note(f"what was measured is not kept: {error}")
        return False
    return True


def _warn_of(session: Session[FreezeRecipe], head: FittedHead) -> None:
    if not head.facts.get("converged", True):
        session.observer.warn("the head was still improving when its fit ended; a larger head.penalty converges sooner")

"""What a run is about to do, and about how long it will take on this machine."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cnn_tl.core.device import Precision
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted
from cnn_tl.core.progress import FeaturePlan, Plan
from cnn_tl.features.speed import describe, noise
from cnn_tl.heads.choice import choose, lbfgs_seconds, ridge_seconds
from cnn_tl.recipe.messages import policy_shown
from cnn_tl.recipe.resolved import (
    AdamwHead,
    FreezeRecipe,
    HeadRecipe,
    KnnHead,
    LoopRecipe,
    LpFtRecipe,
    PrototypeHead,
    ResolvedHead,
)
from cnn_tl.training.context import Session

if TYPE_CHECKING:
    from cnn_tl.training.modes.freeze import Preparation

BACKWARD_COST = 3.0
"""A training step costs about this many forward passes: forward, and two products of that size for the gradients."""

ADAMW_STEP_SECONDS = 0.002
"""One step of a head on features."""

DECODE_SECONDS = 0.004
"""One image of ordinary size through Pillow on one thread."""

VIEW_SECONDS = 0.002
"""One view of a kept image: read, checked, cut and coloured on one thread."""

TORCH_SECONDS = 2.0
"""Loading torch and timm, where they are not loaded yet and the network has to run."""


def plan_frozen(session: Session[FreezeRecipe], prepared: Preparation) -> Plan:
    """Describe a run in mode `freeze`."""
    card = session.card
    speeds, way = prepared.speeds, prepared.way
    trainable = _head_parameters(card.num_features, len(session.manifest.classes), session.recipe.head)
    fast, exact = speeds.seconds.get(str(way), speeds.seconds["fp32"]), speeds.seconds["fp32"]
    decode = DECODE_SECONDS / session.read_at_once
    seconds = len(prepared.train.missing) * max(fast, decode) + len(prepared.val.missing) * max(exact, decode)
    if prepared.to_compute:
        compiling = max(0.0, speeds.compile_seconds.get(str(way), 0.0)) if prepared.train.missing else 0.0
        seconds += compiling + (0.0 if "network" in vars(session) else TORCH_SECONDS)
    if "network" in vars(session):
        seconds += session.network.loading_seconds
    return Plan(
        **_common(session),
        trainable=trainable,
        total=card.backbone_parameters + trainable,
        device=speeds.device_name,
        precision=str(way),
        schedule=f"{_views(session, prepared)}, then the head ({_head_kind(session, prepared)})",
        phases=None,
        features=_features(session, prepared),
        images=None,
        seconds=seconds + _head_seconds(session, prepared) + 1,
    )


def _features(session: Session[HeadRecipe], prepared: Preparation) -> FeaturePlan:
    settings = session.recipe.features
    kept = settings.cache and settings.views != "fresh"
    return FeaturePlan(prepared.to_compute, prepared.at_hand, prepared.bytes_to_keep if kept else 0)


def _head_seconds(session: Session[HeadRecipe], prepared: Preparation) -> float:
    """Guess what fitting the head takes, from the size of its problem."""
    head = session.recipe.head
    if isinstance(head, AdamwHead):
        return -(-len(prepared.train.images) // head.batch_size) * head.epochs * ADAMW_STEP_SECONDS
    if isinstance(head, KnnHead | PrototypeHead):
        return 0.0
    images, views = _problem_size(prepared)
    return _fit_seconds(session, head.kind, images, views, session.card.num_features)


def _head_kind(session: Session[HeadRecipe], prepared: Preparation) -> str:
    """Return the kind of head that is fitted, and why, where `auto` chooses another one than lbfgs."""
    kind = session.recipe.head.kind
    if kind != "auto":
        return kind
    return str(choose(*_problem_size(prepared), session.card.num_features, len(session.manifest.classes)))


def _problem_size(prepared: Preparation) -> tuple[int, int]:
    """Return the number of training images and of views of each."""
    return len(prepared.train.images), prepared.train.views


def _fit_seconds(session: Session, kind: str, images: int, views: int, num_features: int) -> float:
    size = (images, views, num_features, len(session.manifest.classes))
    fitted = choose(*size).kind if kind == "auto" else kind
    return ridge_seconds(*size) if fitted == "ridge" else lbfgs_seconds(*size)


def plan_loop(session: Session[LoopRecipe]) -> Plan:
    """Describe a run with a training loop: modes `finetune` and `scratch`."""
    from cnn_tl.networks import freeze

    recipe, model = session.recipe, session.network.model
    freeze.apply(model, recipe.model.freeze, recipe.model.bn)
    trainable, total = freeze.count_parameters(model)
    images = _kept_images(session)
    return Plan(
        **_common(session),
        trainable=trainable,
        total=total,
        device=describe(session.device),
        precision=session.precision,
        schedule=_loop_schedule(session),
        phases=_phases(session),
        features=None,
        images=images,
        seconds=_loop_seconds(session, images),
    )


def plan_head_first(session: Session[LpFtRecipe], prepared: Preparation) -> Plan:
    """Describe a run in mode `lp-ft` or `auto`: what the head needs, and then the loop."""
    loop = plan_loop(session)
    features = _features(session, prepared)
    schedule = f"the head ({_head_kind(session, prepared)}) on frozen features, then {loop.schedule}"
    decode = DECODE_SECONDS / session.read_at_once
    first = prepared.to_compute * max(prepared.speeds.seconds["fp32"], decode) + _head_seconds(session, prepared)
    return replace(loop, schedule=schedule, features=features, seconds=loop.seconds + first)


def _common(session: Session) -> dict[str, Any]:
    recipe, manifest, spec = session.recipe, session.manifest, session.card.preprocessing
    return {
        "mode": recipe.mode,
        "data": printable(recipe.data.path or manifest.root),
        "layout": manifest.layout,
        "counts": manifest.counts(),
        "set_aside": len(manifest.set_aside),
        "backbone": session.card.name,
        "weights": session.card.weights,
        "image_size": (spec.height, spec.width),
        "output": printable(session.run.path),
    }


def _head_parameters(num_features: int, num_classes: int, head: ResolvedHead) -> int:
    if isinstance(head, KnnHead):
        return 0
    if isinstance(head, AdamwHead) and head.hidden is not None:
        return (num_features + 1) * head.hidden + (head.hidden + 1) * num_classes
    return (num_features + 1) * num_classes


def _views(session: Session[FreezeRecipe], prepared: Preparation) -> str:
    views = session.recipe.features.views
    if not prepared.to_compute:
        return "features from the cache"
    if views == "fresh":
        return f"a fresh view of each image in each of {counted(session.recipe.views, 'epoch')}"
    return "one pass for each image" if views == 1 else f"one pass for each of {views} views of an image"


def _loop_schedule(session: Session[LoopRecipe]) -> str:
    settings, steps = session.recipe.train, _steps(session)
    epochs = f"{counted(settings.length.count, 'epoch')}, " if settings.length.unit == "epochs" else ""
    rate = "learning rate by a range test" if settings.lr == "auto" else f"peak learning rate {settings.lr:g}"
    return f"{epochs}{counted(steps, 'step')} of up to {session.batch_size}, {rate}"


def _phases(session: Session[LoopRecipe]) -> str | None:
    """Say what trains when, such as "head (epoch 1), last-stage (2), all (3-5)", where it is not the same all along."""
    model = session.recipe.model
    if not model.unfreeze:
        return None
    every, policies = model.unfreeze_every, model.policies
    stretches = []
    for number, policy in enumerate(policies):
        first = number * every + 1
        last = session.epochs if number == len(policies) - 1 else first + every - 1
        word = "" if number else "epoch " if first == last else "epochs "
        stretches.append(f"{policy_shown(policy)} ({word}{first if first == last else f'{first}-{last}'})")
    return ", ".join(stretches)


def _steps(session: Session[LoopRecipe]) -> int:
    return session.recipe.train.length.steps(session.steps_per_epoch)


def _kept_images(session: Session) -> FeaturePlan | None:
    if not session.images.are_kept:
        return None
    images = session.manifest.of("train") + session.manifest.of("val")
    lacking = session.images.lacking(images)
    return FeaturePlan(len(lacking), len(images) - len(lacking), session.images.expected_bytes(lacking))


def _loop_seconds(session: Session[LoopRecipe], kept: FeaturePlan | None) -> float:
    train, val = len(session.manifest.of("train")), len(session.manifest.of("val"))
    threads = session.read_at_once
    first = (train + val if kept is None else kept.computed) * DECODE_SECONDS / threads
    each = (DECODE_SECONDS if kept is None else VIEW_SECONDS) / threads
    fast = max(_seconds_per_image(session, session.precision), each)
    exact = max(_seconds_per_image(session, "fp32"), each)
    share = _steps(session) / session.steps_per_epoch
    validations = session.epochs + 1  # the weights that are kept, once more
    if session.recipe.fits_head:
        validations += 1
        from cnn_tl.training.loop.head_init import AT_MOST

        images, num_features = min(train, AT_MOST), int(session.network.model.num_features)  # type: ignore[arg-type]
        first += images * exact + _fit_seconds(session, "auto", images, 1, num_features)
    passed = share * train
    if session.recipe.train.lr == "auto":
        from cnn_tl.training.loop.lr_range_test import STEPS

        passed += STEPS * min(session.batch_size, train)
    loop = passed * fast * BACKWARD_COST + validations * val * exact
    return session.network.loading_seconds + first + loop


def _seconds_per_image(session: Session, precision: Precision, images: int = 4) -> float:
    """Time one forward pass of a small batch, after one that warms up."""
    import torch

    from cnn_tl.core.device import autocast
    from cnn_tl.networks.backbone import place, to_input

    model = place(session.network.model, session.device).eval()
    x_NCHW = to_input(noise(session.network, images), session.card.preprocessing, session.device)
    with torch.inference_mode(), autocast(session.device, precision):
        model(x_NCHW)
        started = time.perf_counter()
        model(x_NCHW).sum().item()
    return (time.perf_counter() - started) / images

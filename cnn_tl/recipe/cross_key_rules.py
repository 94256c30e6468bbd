"""Which settings of a recipe contradict each other, or would do nothing beside another: refused, not ignored.

What a mode or a kind of head has no setting for is read off the types in `resolved`; here is what to do instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from cnn_tl.core.errors import RecipeError
from cnn_tl.recipe.defaults import AUXILIARY_MODELS, POLICY_DEFAULTS
from cnn_tl.recipe.messages import policy_shown
from cnn_tl.recipe.resolved import HEAD_TYPES, Embedding, TrainedModel
from cnn_tl.recipe.schema import Head, Model, Train
from cnn_tl.recipe.settings import Settings

WITHOUT_MEANING_IN_FREEZE = frozenset(f"train.{key}" for key in Train.model_fields.keys() - Embedding.model_fields)


def sees_one_view(recipe: Settings) -> bool:
    """Say whether the network sees each training image in one way only, without augmentation."""
    return recipe.features.views == 1 or (recipe.mode == "freeze" and recipe.features.views is None)


def trains_auxiliary(recipe: Settings) -> bool:
    """Say whether auxiliary classifiers can train: there are some, and the whole network trains."""
    return recipe.mode != "freeze" and _has_auxiliary(recipe.model) and recipe.model.freeze in (None, "all")


def refuse_contradictions(recipe: Settings) -> None:
    """Refuse the first contradiction.

    Raises:
        RecipeError: two settings contradict each other, or one has no effect beside another.
    """
    for contradiction in contradictions(recipe):
        raise RecipeError(contradiction)


def refuse_unreached_phases(model: TrainedModel, epochs: int) -> None:
    """Refuse steps of `model.unfreeze` that would begin after the last epoch.

    Raises:
        RecipeError: there is one.
    """
    for number, policy in enumerate(model.unfreeze, 1):
        first = number * model.unfreeze_every + 1
        if first > epochs:
            sooner = "" if model.unfreeze_every == 1 else ", or a smaller model.unfreeze_every"
            raise RecipeError(
                f"model.unfreeze: {policy_shown(policy)} would begin with epoch {first}, and the run has {epochs}; "
                f"remove it, or set train.epochs: {first}{sooner}"
            )


def contradictions(recipe: Settings) -> Iterator[str]:
    """Compare the settings that a user has given, before the defaults of the mode are filled in.

    Yields:
        Which two contradict each other, or which has no effect beside another, and what to do; the key comes first.
    """
    yield from _in_augment(recipe)
    if recipe.mode == "freeze":
        yield from _in_freeze(recipe)
    else:
        yield from _in_unfreezing(recipe)
        yield from _in_loop(recipe)
    if recipe.mode in ("finetune", "scratch"):
        yield from _without_fitted_head(recipe)
    if recipe.mode == "scratch":
        yield from _in_scratch(recipe)
    if recipe.mode in ("lp-ft", "auto"):
        yield from _in_lp_ft(recipe)
    yield from _in_head(recipe)
    if recipe.run.sources != "auto":
        yield from _in_sources(recipe)


def _idle(setting: str, beside: str, why: str, instead: str) -> str:
    """Say that a setting has no effect beside another, why, and what to set instead."""
    return f"{setting} has no effect with {beside}, which wins: {why}; {_remedy(setting, instead)}"


def _against(setting: str, other: str, instead: str) -> str:
    """Say that a setting contradicts another (which may carry the reason), and what to set instead."""
    return f"{setting} contradicts {other}; {_remedy(setting, instead)}"


def _remedy(setting: str, instead: str) -> str:
    return f"remove {setting.partition(':')[0]}, or set {instead}"


def _in_freeze(recipe: Settings) -> Iterator[str]:
    model = recipe.model
    for key in recipe.train.model_dump(exclude_none=True):
        if f"train.{key}" in WITHOUT_MEANING_IN_FREEZE:
            yield _idle(f"train.{key}", "mode: freeze", "no loop runs", "mode: finetune")
    head_only = "mode: freeze, which trains the head only"
    if model.freeze not in (None, "head"):
        yield _against(f"model.freeze: {policy_shown(model.freeze)}", head_only, "mode: finetune")
    if model.unfreeze is not None:
        yield _against("model.unfreeze", head_only, "mode: finetune")
    if model.bn is not None:
        yield _idle(f"model.bn: {model.bn}", "mode: freeze", "every BatchNorm is frozen", "mode: finetune")
    if recipe.features.views == "fresh" and recipe.head.kind != "adamw":
        yield (
            f"features.views: fresh has no effect with head.kind: {recipe.head.kind}, which wins: it has no "
            "epochs; set features.views to a number, or head.kind: adamw"
        )


def _in_unfreezing(recipe: Settings) -> Iterator[str]:
    model = recipe.model
    trains_all = model.freeze in (None, "all")
    if recipe.features.views is not None and (trains_all or model.unfreeze):
        what, why = ("model.unfreeze", "stays") if model.unfreeze else ("model.freeze: all", "is")
        beside, why = f"mode: {recipe.mode} and {what}", f"no part {why} frozen, so nothing can be kept"
        yield _idle("features.views", beside, why, "model.freeze: last-stage")
    if model.unfreeze_every is not None and not model.unfreeze:
        yield "model.unfreeze_every has no effect without model.unfreeze; set that, as [last-stage, all]"
    if model.unfreeze and trains_all:
        yield _idle("model.unfreeze", "model.freeze: all", "all trains from the start", "model.freeze: head")
    for before, after in pairwise([model.freeze, *(model.unfreeze or ())]):
        reach, next_reach = _stages_reached(before), _stages_reached(after)
        if reach is not None and next_reach is not None and next_reach < reach:
            yield (
                f"model.unfreeze: {policy_shown(after)} would freeze again what {policy_shown(before)} trains; "
                "each step must train all that the one before it does"
            )


def _stages_reached(policy: str | tuple[str, ...] | None) -> float | None:
    """Return how many stages before the head a policy trains; None where only the network can tell."""
    if not isinstance(policy, str):
        return None
    named = {"head": 0, "last-stage": 1, "all": math.inf}
    count = policy.removeprefix("last-")
    return named[policy] if policy in named else int(count) if count.isdecimal() else None


def _in_loop(recipe: Settings) -> Iterator[str]:
    train, model = recipe.train, recipe.model
    if train.steps is not None and train.epochs is not None:
        yield f"train.steps: {train.steps} contradicts train.epochs: {train.epochs}: both say how long; remove one"
    for key in ("decay_every", "decay_rate"):
        if getattr(train, key) is not None and train.schedule != "step":
            beside = f"train.schedule: {train.schedule or 'cosine'}, which wins"
            yield f"train.{key} has no effect with {beside}; {_remedy(f'train.{key}', 'train.schedule: step')}"
    if train.focal_gamma is not None and train.loss != "focal":
        yield (
            "train.focal_gamma has no effect with train.loss: cross-entropy, which wins; "
            "remove train.focal_gamma, or set train.loss: focal"
        )
    if train.class_weights == "balanced" and train.sampling == "balanced":
        yield (
            "train.class_weights: balanced contradicts train.sampling: balanced: rare classes would count twice over; "
            "remove one of them"
        )
    if train.aux_weight is not None and not trains_auxiliary(recipe):
        yield _idle_auxiliary(model)
    if train.micro_batch is not None and train.batch_size is not None and train.micro_batch > train.batch_size:
        yield (
            f"train.micro_batch: {train.micro_batch} contradicts train.batch_size: {train.batch_size}, "
            "of which it is a part; make it smaller"
        )
    if model.bn == "sync" and recipe.run.device in ("cpu", "mps"):
        yield f"model.bn: sync contradicts run.device: {recipe.run.device}: it needs CUDA; set model.bn: train or eval"


def _idle_auxiliary(model: Model) -> str:
    if _has_auxiliary(model):
        beside = f"model.freeze: {policy_shown(model.freeze)}"
        why = "auxiliary classifiers are there for the gradient of the early layers, so they train where all does"
        return _idle("train.aux_weight", beside, why, "model.freeze: all")
    names = " or ".join(AUXILIARY_MODELS)
    return _idle(
        "train.aux_weight", f"model.name: {model.name}", "it has no auxiliary classifiers", f"model.name: {names}"
    )


def _has_auxiliary(model: Model) -> bool:
    """Say whether a model has auxiliary classifiers, whatever the tag in its name."""
    return model.name.partition(".")[0] in AUXILIARY_MODELS


def _without_fitted_head(recipe: Settings) -> Iterator[str]:
    for key, default in Head().model_dump().items():
        value = getattr(recipe.head, key)
        if (key, value) == ("kind", "lbfgs"):
            continue  # the default of earlier versions, which they wrote into every recipe
        if value != default:
            why = "its head is one linear layer that trains with the rest"
            instead = "train.class_weights" if key == "class_weights" else "mode: lp-ft"
            yield _idle(f"head.{key}", f"mode: {recipe.mode}", why, instead)


def _in_scratch(recipe: Settings) -> Iterator[str]:
    model = recipe.model
    if model.weights is not None:
        yield _idle("model.weights", "mode: scratch", "it starts from random weights", "mode: finetune")
    if recipe.train.head_start == "fitted":
        other = "mode: scratch: random features are no use to fit a head on"
        yield _against("train.head_start: fitted", other, "mode: finetune")
    if model.freeze not in (None, "all"):
        other = "mode: scratch: random weights are no use frozen"
        yield _against(f"model.freeze: {policy_shown(model.freeze)}", other, "mode: finetune")
    if model.bn == "eval":
        other = "mode: scratch: there are no running statistics yet that could be held"
        yield _against("model.bn: eval", other, "mode: finetune")


def _in_lp_ft(recipe: Settings) -> Iterator[str]:
    head = recipe.head
    if recipe.train.head_start is not None:
        yield _idle("train.head_start", f"mode: {recipe.mode}", "its head is always fitted first", "mode: finetune")
    if head.kind == "knn" or head.hidden is not None:
        what = "head.hidden" if head.hidden is not None else f"head.kind: {head.kind}"
        yield (
            f"{what} contradicts mode: {recipe.mode}, which goes on from a linear head; "
            "set head.kind: lbfgs, or mode: freeze"
        )


def _in_head(recipe: Settings) -> Iterator[str]:
    kind = recipe.head.kind
    known = {*HEAD_TYPES[kind].model_fields, *(["penalty"] if kind == "auto" else [])}  # which then means lbfgs
    for key in recipe.head.model_dump(exclude_none=True):
        if key not in known:
            takes = ", ".join(other for other, fields in HEAD_TYPES.items() if key in fields.model_fields)
            yield _idle(f"head.{key}", f"head.kind: {kind}", "it has no such setting", f"head.kind: {takes}")


def _in_augment(recipe: Settings) -> Iterator[str]:
    augment = recipe.augment
    if augment is None:
        return
    for key in ("magnitude", "ops"):
        if getattr(augment, key) is not None and key not in POLICY_DEFAULTS[augment.policy]:
            takes = ", ".join(policy for policy, known in POLICY_DEFAULTS.items() if key in known)
            beside, instead = f"augment.policy: {augment.policy}", f"augment.policy: {takes}"
            yield _idle(f"augment.{key}", beside, "it has no such setting", instead)
    mixing = [f"augment.{key}" for key in ("mixup", "cutmix") if getattr(augment, key) > 0]
    for key in mixing:
        if recipe.mode == "freeze":
            yield _idle(key, "mode: freeze", "the head is fitted on the features of whole images", "mode: finetune")
        if _keeps_activations(recipe):
            beside = f"model.freeze: {policy_shown(recipe.model.freeze)}"
            yield _idle(key, beside, "activations of whole images are kept", "features.views: fresh")
    for key in mixing:
        if recipe.train.batch_size == 1:
            why = "the images of a step are mixed with each other"
            yield _idle(key, "train.batch_size: 1", why, "train.batch_size: 32")
    if sees_one_view(recipe):
        yield _idle("augment", "features.views: 1", "each image is seen in one way only", "features.views: 8")


def _in_sources(recipe: Settings) -> Iterator[str]:
    setting = f"run.sources: {recipe.run.sources}"
    if recipe.mode == "freeze":
        yield _idle(setting, "mode: freeze", "no loop runs", "mode: finetune")
    if sees_one_view(recipe):
        yield _idle(setting, "features.views: 1", "no random views are drawn", "features.views: 8")
    if recipe.run.sources == "disk" and not recipe.data.keep_images:
        yield _against(setting, "data.keep_images: false", "run.sources: decode")


def _keeps_activations(recipe: Settings) -> bool:
    """Say whether activations of the frozen part may be kept and reused."""
    partly = recipe.model.freeze not in (None, "all") and not recipe.model.unfreeze
    return partly and recipe.features.views != "fresh"

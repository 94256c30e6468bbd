"""Which settings of a recipe contradict each other, or would do nothing beside another: refused, not ignored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from cnn_tl.core.errors import RecipeError
from cnn_tl.recipe.defaults import AUXILIARY_MODELS, POLICY_DEFAULTS
from cnn_tl.recipe.naming import policy_shown
from cnn_tl.recipe.resolved import HEAD_TYPES, Embedding, TrainedModel
from cnn_tl.recipe.sections import Augment, Head, Model, Train

if TYPE_CHECKING:
    from cnn_tl.recipe.recipe import Recipe


WITHOUT_MEANING_IN_FREEZE = frozenset(f"train.{key}" for key in Train.model_fields.keys() - Embedding.model_fields)


def sees_one_view(recipe: Recipe) -> bool:
    """Say whether the network sees each training image in one way only, so that nothing is random about it."""
    return recipe.features.views == 1 or (recipe.mode == "freeze" and recipe.features.views is None)


def refuse_contradictions(recipe: Recipe) -> None:
    """Refuse the first contradiction.

    Raises:
        RecipeError: two settings contradict each other, or one has no effect beside another.
    """
    for contradiction in contradictions(recipe):
        raise RecipeError(contradiction)


def contradictions(recipe: Recipe) -> Iterator[str]:
    """Compare the settings that a person has given, before the defaults of the mode are filled in.

    Yields:
        Which two contradict each other, or which has no effect beside another, and what to do; the key comes first.
    """
    if recipe.augment is not None:
        yield from _in_augment(recipe, recipe.augment)
        yield from _mixed_with_another(recipe, recipe.augment)
    if sees_one_view(recipe) and recipe.augment is not None:
        yield (
            "augment has no effect with features.views: 1, which wins: each image is seen in one way only; "
            "remove augment, or set features.views: 8"
        )
    if recipe.mode == "freeze":
        yield from _without_loop(recipe)
    else:
        yield from _with_loop(recipe)
    if recipe.mode in ("finetune", "scratch"):
        yield from _without_fitted_head(recipe)
    if recipe.mode == "scratch":
        yield from _from_nothing(recipe)
    if recipe.mode in ("lp-ft", "auto"):
        yield from _head_first(recipe)
    yield from _in_head(recipe)
    if recipe.run.augment == "device":
        yield from _augmented_on_the_device(recipe)


def _without_loop(recipe: Recipe) -> Iterator[str]:
    for key in recipe.train.model_dump(exclude_none=True):
        if f"train.{key}" in WITHOUT_MEANING_IN_FREEZE:
            yield (
                f"train.{key} has no effect with mode: freeze, which wins: no loop runs; "
                f"remove train.{key}, or set mode: finetune"
            )
    if recipe.model.freeze not in (None, "head"):
        yield (
            f"model.freeze: {policy_shown(recipe.model.freeze)} contradicts mode: freeze, which trains the head only; "
            "remove model.freeze, or set mode: finetune"
        )
    if recipe.model.unfreeze is not None:
        yield (
            "model.unfreeze contradicts mode: freeze, which trains the head only; "
            "remove model.unfreeze, or set mode: finetune"
        )
    if recipe.model.bn is not None:
        yield (
            f"model.bn: {recipe.model.bn} has no effect with mode: freeze, which wins: every BatchNorm is frozen; "
            "remove model.bn, or set mode: finetune"
        )
    if recipe.features.views == "fresh" and recipe.head.kind != "adamw":
        yield (
            f"features.views: fresh has no effect with head.kind: {recipe.head.kind}, which wins: it has no "
            "epochs; set features.views to a number, or head.kind: adamw"
        )


def _with_loop(recipe: Recipe) -> Iterator[str]:
    train, model, mode = recipe.train, recipe.model, recipe.mode
    if recipe.features.views is not None and (model.freeze in (None, "all") or model.unfreeze):
        why = "no part is frozen" if not model.unfreeze else "no part stays frozen"
        what = "model.unfreeze" if model.unfreeze else "model.freeze: all"
        yield (
            f"features.views has no effect with mode: {mode} and {what}, which wins: {why}, so nothing can be kept; "
            "remove features.views, or set model.freeze: last-stage"
        )
    if train.steps is not None and train.epochs is not None:
        yield (f"train.steps: {train.steps} contradicts train.epochs: {train.epochs}: both say how long; remove one")
    for key in ("decay_every", "decay_rate"):
        if getattr(train, key) is not None and train.schedule != "step":
            yield (
                f"train.{key} has no effect with train.schedule: {train.schedule or 'cosine'}, which wins; "
                f"remove train.{key}, or set train.schedule: step"
            )
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
    yield from _auxiliary(recipe)
    if train.micro_batch is not None and train.batch_size is not None and train.micro_batch > train.batch_size:
        yield (
            f"train.micro_batch: {train.micro_batch} contradicts train.batch_size: {train.batch_size}, "
            "of which it is a part; make it smaller"
        )
    if model.unfreeze_every is not None and not model.unfreeze:
        yield ("model.unfreeze_every has no effect without model.unfreeze; set that, as [last-stage, all]")
    if model.unfreeze and model.freeze in (None, "all"):
        yield (
            "model.unfreeze has no effect with model.freeze: all, which wins: all trains from the start; "
            "remove model.unfreeze, or set model.freeze: head"
        )
    if model.bn == "sync" and recipe.run.device in ("cpu", "mps"):
        yield (
            f"model.bn: sync contradicts run.device: {recipe.run.device}: it needs CUDA; set model.bn: train or eval"
        )
    yield from _never_freezing_again(model)


def _never_freezing_again(model: Model) -> Iterator[str]:
    policies = [model.freeze, *(model.unfreeze or ())]
    for before, after in pairwise(policies):
        reach, next_reach = _stages_reached(before), _stages_reached(after)
        if reach is not None and next_reach is not None and next_reach < reach:
            yield (
                f"model.unfreeze: {policy_shown(after)} would freeze again what {policy_shown(before)} trains; "
                "each step must train all that the one before it does"
            )


def _stages_reached(policy: str | tuple[str, ...] | None) -> float | None:
    """Return how many stages before the head a policy trains; None where only the network can tell."""
    if not isinstance(policy, str) or policy == "norm":
        return None
    named = {"head": 0, "last-stage": 1, "all": math.inf}
    return named[policy] if policy in named else int(policy.removeprefix("last-"))


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


def _auxiliary(recipe: Recipe) -> Iterator[str]:
    if recipe.train.aux_weight is None or trains_auxiliary(recipe):
        return
    model = recipe.model
    if has_auxiliary(model):
        yield (
            f"train.aux_weight has no effect with model.freeze: {policy_shown(model.freeze)}, which wins: auxiliary "
            "classifiers are there for the gradient of the early layers, so they train where all does; "
            "remove train.aux_weight, or set model.freeze: all"
        )
    else:
        yield (
            f"train.aux_weight has no effect with model.name: {model.name}, which wins: it has no auxiliary "
            f"classifiers; remove train.aux_weight, or set model.name: {' or '.join(AUXILIARY_MODELS)}"
        )


def trains_auxiliary(recipe: Recipe) -> bool:
    """Say whether the recipe has a loop in which auxiliary classifiers can train: the whole network does."""
    return recipe.mode != "freeze" and has_auxiliary(recipe.model) and recipe.model.freeze in (None, "all")


def has_auxiliary(model: Model) -> bool:
    """Say whether a model has auxiliary classifiers, with whatever tag it is named."""
    return model.name.partition(".")[0] in AUXILIARY_MODELS


def _without_fitted_head(recipe: Recipe) -> Iterator[str]:
    for key, default in Head().model_dump().items():
        value = getattr(recipe.head, key)
        if (key, value) == ("kind", "lbfgs"):
            continue  # the default of earlier versions, which they wrote into every recipe
        if value != default:
            instead = "train.class_weights" if key == "class_weights" else "mode: lp-ft"
            yield (
                f"head.{key} has no effect with mode: {recipe.mode}, which wins: its head is one linear layer that "
                f"trains with the rest; remove head.{key}, or set {instead}"
            )


def _from_nothing(recipe: Recipe) -> Iterator[str]:
    if recipe.model.weights is not None:
        yield (
            "model.weights has no effect with mode: scratch, which wins: it starts from random weights; "
            "remove model.weights, or set mode: finetune"
        )
    if recipe.train.head_start == "fitted":
        yield (
            "train.head_start: fitted contradicts mode: scratch: random features are no use to fit a head on; "
            "remove train.head_start, or set mode: finetune"
        )
    if recipe.model.freeze not in (None, "all"):
        yield (
            f"model.freeze: {policy_shown(recipe.model.freeze)} contradicts mode: scratch: random weights are no use "
            "frozen; remove model.freeze, or set mode: finetune"
        )
    if recipe.model.bn == "eval":
        yield (
            "model.bn: eval contradicts mode: scratch: there are no running statistics yet that could be held; "
            "remove model.bn, or set mode: finetune"
        )


def _head_first(recipe: Recipe) -> Iterator[str]:
    if recipe.train.head_start is not None:
        yield (
            f"train.head_start has no effect with mode: {recipe.mode}, which wins: its head is always fitted first; "
            "remove train.head_start, or set mode: finetune"
        )
    if recipe.head.kind == "knn" or recipe.head.hidden is not None:
        what = "head.hidden" if recipe.head.hidden is not None else f"head.kind: {recipe.head.kind}"
        yield (
            f"{what} contradicts mode: {recipe.mode}, which goes on from a linear head; "
            "set head.kind: lbfgs, or mode: freeze"
        )


def _in_head(recipe: Recipe) -> Iterator[str]:
    kind = recipe.head.kind
    for key in recipe.head.model_dump(exclude_none=True):
        if key not in (*HEAD_TYPES[kind].model_fields, *(["penalty"] if kind == "auto" else [])):
            takes = ", ".join(other for other, known in HEAD_TYPES.items() if key in known.model_fields)
            yield (
                f"head.{key} has no effect with head.kind: {kind}, which wins: it has no such setting; "
                f"remove head.{key}, or set head.kind: {takes}"
            )


def _in_augment(recipe: Recipe, augment: Augment) -> Iterator[str]:
    for key in ("magnitude", "ops"):
        if getattr(augment, key) is not None and key not in POLICY_DEFAULTS[augment.policy]:
            takes = ", ".join(policy for policy, known in POLICY_DEFAULTS.items() if key in known)
            yield (
                f"augment.{key} has no effect with augment.policy: {augment.policy}, which wins: it has no such "
                f"setting; remove augment.{key}, or set augment.policy: {takes}"
            )
    for key in ("mixup", "cutmix"):
        if getattr(augment, key) > 0 and recipe.mode == "freeze":
            yield (
                f"augment.{key} has no effect with mode: freeze, which wins: the head is fitted on the features of "
                f"whole images; remove augment.{key}, or set mode: finetune"
            )
        if getattr(augment, key) > 0 and _keeps_activations(recipe):
            yield (
                f"augment.{key} has no effect with model.freeze: {policy_shown(recipe.model.freeze)}, which wins: "
                f"activations of whole images are kept; remove augment.{key}, or set features.views: fresh"
            )


def _mixed_with_another(recipe: Recipe, augment: Augment) -> Iterator[str]:
    for key in ("mixup", "cutmix"):
        if getattr(augment, key) > 0 and recipe.train.batch_size == 1:
            yield (
                f"augment.{key} has no effect with train.batch_size: 1, which wins: the images of a step are mixed "
                f"with each other; remove augment.{key}, or set train.batch_size: 32"
            )


def _augmented_on_the_device(recipe: Recipe) -> Iterator[str]:
    if recipe.mode == "freeze":
        yield (
            "run.augment: device has no effect with mode: freeze, which wins: no loop runs; "
            "remove run.augment, or set mode: finetune"
        )
    if _keeps_activations(recipe):
        yield (
            f"run.augment: device has no effect with model.freeze: {policy_shown(recipe.model.freeze)}, which wins: "
            "activations are kept; remove run.augment, or set features.views: fresh"
        )
    if recipe.augment is not None and recipe.augment.color == recipe.augment.erasing == 0:
        yield (
            "run.augment: device has no effect with augment.color: 0 and augment.erasing: 0, which win: nothing is "
            "left for it to do; remove run.augment, or set augment.color: 0.2"
        )


def _keeps_activations(recipe: Recipe) -> bool:
    """Say whether the frozen part of the network may hand over what it has computed before."""
    partly = recipe.model.freeze not in (None, "all") and not recipe.model.unfreeze
    return partly and recipe.features.views != "fresh"

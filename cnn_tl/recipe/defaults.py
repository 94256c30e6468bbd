"""What a setting means where the recipe says nothing: by mode, by kind of head, by schedule, loss and policy."""

from __future__ import annotations

from typing import Any

from cnn_tl.core.choices import HeadKind, Mode
from cnn_tl.recipe.resolved import HEAD_TYPES, FinetuneTrain, Length, LoopRecipe, LoopTrain, ResolvedHead
from cnn_tl.recipe.types import AugmentPolicy, BatchNorm

MODE_LR: dict[Mode, float] = {"finetune": 1e-4, "scratch": 1e-3, "lp-ft": 1e-4, "auto": 1e-4}
RANDOM_HEAD_LR = 5e-4
"""Peak learning rate of each mode with a loop, and of `finetune` with `head_start: random`."""

RANDOM_HEAD_TRAIN = FinetuneTrain(
    length=Length(count=5, unit="epochs"),
    batch_size=32, optimizer="adamw", lr=RANDOM_HEAD_LR, head_start="random", head_lr_factor=10,
    layer_decay=0.8, weight_decay=0.05, schedule="cosine", warmup=0.1, loss="cross-entropy", label_smoothing=0,
    class_weights="none", sampling="natural", clip_grad=1, ema=0, temperature="fitted",
)  # fmt: skip
"""`train` of `finetune` with `head_start: random`: the head has far to go, and the layers before it little."""

_FITTED_HEAD_TRAIN = RANDOM_HEAD_TRAIN.model_copy(
    update={"lr": MODE_LR["finetune"], "head_start": "fitted", "head_lr_factor": 1.0, "layer_decay": 1.0}
)
"""A fitted head is nearly right: high rates and smoothed labels, which it was not fitted to, would first undo it
(three dishes, three epochs, validation loss: 0.14 and 0.16 without smoothing at 1e-4, 0.27 to 0.39 otherwise)."""

_SCRATCH_TRAIN = RANDOM_HEAD_TRAIN.model_copy(
    update={
        "length": Length(count=30, unit="epochs"),
        "lr": MODE_LR["scratch"], "head_lr_factor": 1.0, "layer_decay": 1.0, "label_smoothing": 0.1,
    }
)  # fmt: skip

_LP_FT_TRAIN = LoopTrain(
    **{name: value for name, value in _FITTED_HEAD_TRAIN.model_dump().items() if name != "head_start"} | {"epochs": 3}
)

MODE_TRAIN: dict[Mode, LoopTrain] = {
    "finetune": _FITTED_HEAD_TRAIN,
    "scratch": _SCRATCH_TRAIN,
    "lp-ft": _LP_FT_TRAIN,
    "auto": _LP_FT_TRAIN,
}
"""`train` in each mode with a loop."""

MODE_BN: dict[Mode, BatchNorm] = {"finetune": "eval", "scratch": "train", "lp-ft": "eval", "auto": "eval"}
"""What BatchNorm does in each mode with a loop. A head that was fitted on the features that running statistics give is
best fine-tuned on those too: statistics of a batch differ. Under a random head they move."""

SCHEDULE_DEFAULTS: dict[str, dict[str, float]] = {
    "one-cycle": {"warmup": 0.3},
    "step": {"decay_every": 0.35, "decay_rate": 0.1},
}
LOSS_DEFAULTS: dict[str, dict[str, float]] = {"focal": {"focal_gamma": 2.0}}
"""What some schedules and losses have for themselves."""

AUXILIARY_MODELS = ("googlenet",)
"""Models with auxiliary classifiers, which train with the network and are dropped with the training loop."""

AUX_WEIGHT = 0.3
"""Weight of the loss of each auxiliary classifier (Szegedy et al. 2014, sec. 5)."""

POLICY_DEFAULTS: dict[AugmentPolicy, dict[str, int]] = {
    "none": {}, "randaugment": {"magnitude": 9, "ops": 2}, "trivialaugment": {},
}  # fmt: skip
"""The settings that have a meaning for each policy, and their defaults."""

DEFAULT_VIEWS = 4
"""Views of an image that are kept for a training loop on a frozen part."""

HEAD_SETTINGS: dict[HeadKind, dict[str, Any]] = {
    "adamw": {
        "dropout": 0, "label_smoothing": 0, "epochs": 50, "batch_size": 64, "lr": 1e-3, "weight_decay": 2,
    },
    "knn": {"neighbours": 20},
}  # fmt: skip
"""The defaults of the kinds that have required settings of their own."""

HEAD_DEFAULTS: dict[HeadKind, ResolvedHead] = {
    kind: head(kind=kind, class_weights="none", **HEAD_SETTINGS.get(kind, {})) for kind, head in HEAD_TYPES.items()
}
"""`head` for each kind."""


def mode_train(mode: Mode, head_start: str | None) -> LoopTrain:
    """Return `train` of a mode with a loop, as it is where the recipe says nothing else."""
    return RANDOM_HEAD_TRAIN if (mode, head_start) == ("finetune", "random") else MODE_TRAIN[mode]


def default_lr(recipe: LoopRecipe) -> float:
    """Return the mode's own peak learning rate, for a range test that finds none."""
    return MODE_LR[recipe.mode] if recipe.mode != "finetune" or recipe.fits_head else RANDOM_HEAD_LR

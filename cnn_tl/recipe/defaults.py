"""What a setting means where the recipe says nothing: by mode, by kind of head, by schedule, loss and policy."""

from __future__ import annotations

from typing import Literal

from cnn_tl.recipe.sections import Head, Train
from cnn_tl.recipe.types import AugmentPolicy, HeadKind, Mode

_LOOP = Train(
    epochs=5, batch_size=32, optimizer="adamw", lr=5e-4, head_start="random", head_lr_factor=10, layer_decay=0.8,
    weight_decay=0.05, schedule="cosine", warmup=0.1, loss="cross-entropy", label_smoothing=0, class_weights="none",
    sampling="natural", clip_grad=1, ema=0, temperature="fitted",
)  # fmt: skip

_FROM_HEAD = _LOOP.model_copy(update={"lr": 1e-4, "head_start": "fitted", "head_lr_factor": 1.0, "layer_decay": 1.0})
"""A fitted head is nearly right: high rates and smoothed labels, which it was not fitted to, would first undo it
(three dishes, three epochs, validation loss: 0.14 and 0.16 without smoothing at 1e-4, 0.27 to 0.39 otherwise)."""

_AFTER_HEAD = _FROM_HEAD.model_copy(update={"epochs": 3, "head_start": None})

_FROM_NOTHING = _LOOP.model_copy(
    update={"epochs": 30, "lr": 1e-3, "head_lr_factor": 1.0, "layer_decay": 1.0, "label_smoothing": 0.1}
)

MODE_TRAIN: dict[Mode, Train] = {
    "freeze": Train(),
    "finetune": _FROM_HEAD,
    "scratch": _FROM_NOTHING,
    "lp-ft": _AFTER_HEAD,
    "auto": _AFTER_HEAD,
}
"""What `train` means in each mode where the recipe says nothing; in `freeze` there is one pass, no loop."""

RANDOM_HEAD_TRAIN = _LOOP
"""The same for `finetune` with `head_start: random`: the head has far to go, and the layers before it little."""

MODE_FREEZE: dict[Mode, str] = {"freeze": "head", "finetune": "all", "scratch": "all", "lp-ft": "all", "auto": "all"}
"""What trains in each mode where the recipe says nothing."""

MODE_BN: dict[Mode, Literal["train", "eval", "sync"] | None] = {
    "freeze": None, "finetune": "eval", "scratch": "train", "lp-ft": "eval", "auto": "eval",
}  # fmt: skip
"""What BatchNorm does in each mode where the recipe says nothing. A head that was fitted on the features that running
statistics give is best fine-tuned on those too: statistics of a batch are others. Under a random head they move."""

SCHEDULE_DEFAULTS: dict[str | None, dict[str, float]] = {
    "one-cycle": {"warmup": 0.3},
    "step": {"decay_every": 0.35, "decay_rate": 0.1},
}
LOSS_DEFAULTS: dict[str | None, dict[str, float]] = {"focal": {"focal_gamma": 2.0}}
"""What some schedules and losses have for themselves, where the recipe says nothing."""

AUXILIARY_MODELS = ("googlenet",)
"""Models with auxiliary classifiers, which train with the network and are dropped with the training loop."""

AUX_WEIGHT = 0.3
"""Weight of the loss of each where the recipe says nothing (Szegedy et al. 2014, sec. 5)."""

POLICY_DEFAULTS: dict[AugmentPolicy, dict[str, int]] = {
    "none": {}, "randaugment": {"magnitude": 9, "ops": 2}, "trivialaugment": {},
}  # fmt: skip
"""The settings that have a meaning for each policy, and what they are where the recipe says nothing."""

DEFAULT_VIEWS = 4
"""Views of an image that are kept for a training loop on a frozen part, where the recipe says nothing."""

HEAD_DEFAULTS: dict[HeadKind, Head] = {
    "auto": Head(kind="auto"),
    "lbfgs": Head(kind="lbfgs"),
    "ridge": Head(kind="ridge"),
    "adamw": Head(
        kind="adamw", dropout=0, label_smoothing=0, epochs=50, batch_size=64, lr=1e-3, weight_decay=2
    ),
    "knn": Head(kind="knn", neighbours=20),
    "prototype": Head(kind="prototype"),
}  # fmt: skip
"""What `head` means for each kind where the recipe says nothing."""

HEAD_SETTINGS: dict[HeadKind, frozenset[str]] = {
    "lbfgs": frozenset({"penalty"}),
    "ridge": frozenset({"penalty"}),
    "adamw": frozenset({"hidden", "dropout", "label_smoothing", "epochs", "batch_size", "lr", "weight_decay"}),
    "knn": frozenset({"neighbours"}),
    "prototype": frozenset(),
    "auto": frozenset({"penalty"}),
}
"""The settings that have a meaning for each kind, beside `class_weights`, which all honour."""

WITHOUT_MEANING_IN_FREEZE = frozenset(f"train.{name}" for name in Train.model_fields if name != "batch_size")

"""The sections of a recipe: every setting with its type, its range, its default and one line about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cnn_tl.core.device import DeviceName
from cnn_tl.core.errors import UsageError
from cnn_tl.core.preprocessing import MAX_PIXELS, MIN_SIDE
from cnn_tl.recipe.types import (
    AugmentPolicy,
    BatchNorm,
    ClassWeights,
    HeadKind,
    LearningRate,
    Mode,
    PathText,
    Policies,
    Policy,
    Split,
    Trackers,
    Views,
)


class Section(BaseModel):
    """Frozen and strict: no unknown keys, no guessing of types, no NaN and no infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(Section):
    """Which images, and how they are split and checked."""

    path: PathText | None = Field(default=None, description="Folder of class folders, or of train and val.")
    train: PathText | None = Field(
        default=None, description="Folder of train's classes, below path; . takes all of path. null: found by its name."
    )
    val: PathText | None = Field(default=None, description="The same of val, which decides what is kept.")
    test: PathText | None = Field(default=None, description="The same of test, which no choice ever looks at.")
    val_fraction: float = Field(
        default=0.2, gt=0, le=0.5, description="Share of each class kept for validation, if no val is there."
    )
    on_bad_image: Literal["skip", "fail"] = Field(
        default="skip", description="Set a broken image aside by name, or end the run."
    )
    max_pixels: int = Field(
        default=MAX_PIXELS, ge=1, le=2**40, description="An image with more pixels is refused unread."
    )
    min_side: int = Field(default=MIN_SIDE, ge=1, le=8192, description="An image with a shorter side is refused.")
    keep_images: bool = Field(
        default=True, description="A training loop decodes each image once, and keeps it for later runs too."
    )
    memory_gb: float = Field(
        default=1, ge=0, le=1e6, description="The most memory for kept images that find no room in the cache, in GB."
    )

    @property
    def folder(self) -> Path:
        """The folder around all images.

        Raises:
            UsageError: the recipe names none.
        """
        if self.path is None:
            raise UsageError("no data: name a folder of class folders, as in cnn-tl train DATA")
        return Path(self.path)

    @property
    def splits(self) -> dict[Split, str]:
        """The folders of the splits that are named one by one."""
        named: dict[Split, str | None] = {"train": self.train, "val": self.val, "test": self.test}
        return {split: text for split, text in named.items() if text is not None}


class Model(Section):
    """Which network, and where its weights come from."""

    name: str = Field(default="tf_efficientnet_lite0", min_length=1, description="Any timm model; see cnn-tl models.")
    weights: PathText | None = Field(
        default=None, description="Weights file; null takes them from a package or the hub."
    )
    image_size: int | None = Field(
        default=None, ge=8, le=4096, description="Side of the input in pixels; null takes the model's own."
    )
    freeze: Policy | None = Field(
        default=None,
        description="What trains: head, last-stage, last-N, norm (layers), all, or a list of names; null: the mode's.",
    )
    unfreeze: Policies | None = Field(
        default=None, description="Gradual unfreezing: what trains after freeze, one step after the other."
    )
    unfreeze_every: int | None = Field(
        default=None, ge=1, le=100_000, description="Epochs between the steps of unfreeze; null: 1."
    )
    bn: BatchNorm | None = Field(
        default=None,
        description="BatchNorm in the parts that train: statistics moving, held, or those of all processes together.",
    )


class Features(Section):
    """What is computed once by the frozen part of the network, and kept."""

    views: Views | None = Field(
        default=None,
        description="Views of an image that are kept: plain, then augmented; fresh: new ones each epoch.",
    )
    cache: bool = Field(default=True, description="Keep features for later runs, in the cache of this machine.")
    budget_gb: float = Field(default=10, gt=0, le=1e6, description="The most that the cache may hold, in GB.")


class Head(Section):
    """How the head is fitted on the features of a frozen backbone; null means the default of its kind."""

    kind: HeadKind = Field(
        default="auto",
        description="Logistic, ridge, AdamW, neighbours, class means; auto: lbfgs, or ridge where that is better.",
    )
    class_weights: ClassWeights = Field(
        default="none", description="Weight of each class: none, balanced (rare ones more), or class: weight."
    )
    penalty: float | None = Field(
        default=None, gt=0, description="L2 penalty of lbfgs and ridge; null chooses it by cross-validation."
    )
    hidden: int | None = Field(
        default=None, ge=1, le=65_536, description="Width of a hidden layer in an adamw head; null: it is linear."
    )
    dropout: float | None = Field(default=None, ge=0, lt=1, description="Dropout before the adamw head's layers.")
    label_smoothing: float | None = Field(
        default=None, ge=0, lt=1, description="Probability that the adamw head spreads over all classes."
    )
    epochs: int | None = Field(default=None, ge=1, le=100_000, description="Passes of the adamw head.")
    batch_size: int | None = Field(default=None, ge=1, le=1_000_000, description="Images in a step of adamw.")
    lr: float | None = Field(default=None, gt=0, le=100, description="Peak learning rate of the adamw head.")
    weight_decay: float | None = Field(default=None, ge=0, le=10, description="Weight decay of the adamw head.")
    neighbours: int | None = Field(default=None, ge=1, le=10_000, description="Neighbours that vote in a knn head.")


class Train(Section):
    """The training loop; null means the default of the mode."""

    epochs: int | None = Field(default=None, ge=1, le=100_000, description="Passes over the images.")
    steps: int | None = Field(default=None, ge=1, le=10**9, description="Updates, in place of epochs.")
    batch_size: int | None = Field(default=None, ge=1, le=65_536, description="Images in one step.")
    micro_batch: int | None = Field(
        default=None, ge=1, le=65_536,
        description="Images that pass the network at once, a part of a step; null: as many as fit.",
    )  # fmt: skip
    optimizer: str | None = Field(
        default=None, pattern=r"^[a-z0-9]+$", description="adamw, sgd (Nesterov), or another of timm's factory."
    )
    momentum: float | None = Field(default=None, ge=0, lt=1, description="Momentum of SGD and its like.")
    lr: LearningRate | None = Field(
        default=None, description="Peak learning rate of the backbone; auto: found by a range test."
    )
    head_start: Literal["fitted", "random"] | None = Field(
        default=None, description="The head that finetune starts with: fitted on frozen features, or random weights."
    )
    head_lr_factor: float | None = Field(
        default=None, gt=0, le=10_000, description="Learning rate of the head, as a multiple of lr."
    )
    layer_decay: float | None = Field(
        default=None, gt=0, le=1, description="Each layer towards the input learns this much slower; 1: all alike."
    )
    weight_decay: float | None = Field(
        default=None, ge=0, le=10, description="Weight decay, but not on norms and biases."
    )
    schedule: Literal["cosine", "one-cycle", "step", "constant"] | None = Field(
        default=None, description="Course of the learning rate after the warm-up."
    )
    warmup: float | None = Field(default=None, ge=0, le=1, description="Share of the steps in which lr rises.")
    decay_every: float | None = Field(
        default=None, gt=0, le=1, description="Share of the steps after which schedule step lowers lr."
    )
    decay_rate: float | None = Field(default=None, gt=0, le=1, description="What it then multiplies lr by.")
    loss: Literal["cross-entropy", "focal"] | None = Field(
        default=None, description="Focal loss attends to the images that are still hard."
    )
    focal_gamma: float | None = Field(default=None, ge=0, le=10, description="How much it does; 0 is cross-entropy.")
    aux_weight: float | None = Field(
        default=None, ge=0, le=10, description="Weight of each auxiliary classifier's loss, in googlenet; 0: no such."
    )
    label_smoothing: float | None = Field(
        default=None, ge=0, lt=1, description="Probability spread evenly over all classes."
    )
    class_weights: ClassWeights | None = Field(
        default=None, description="Weight of each class in the loss: none, balanced (rare ones more), or class: weight."
    )
    sampling: Literal["natural", "balanced"] | None = Field(
        default=None, description="Whether an epoch shows the classes as often as they are, or all alike."
    )
    clip_grad: float | None = Field(default=None, gt=0, description="Largest gradient norm; 1e9 never clips.")
    ema: float | None = Field(
        default=None, ge=0, lt=1, description="Decay of the moving average of the weights that is kept; 0: none."
    )
    temperature: Literal["fitted", "none"] | None = Field(
        default=None, description="fitted: in the end the logits are made as sure as the validation images justify."
    )
    patience: int | None = Field(
        default=None, ge=1, le=100_000, description="Epochs without a better one after which training ends early."
    )


class Augment(Section):
    """How training images are varied, each time they are seen."""

    crop_scale_min: float = Field(
        default=0.5, gt=0, le=1, description="Smallest share of the area a crop keeps, if the image has room for it."
    )
    flip: bool = Field(default=True, description="Mirror half of the images left to right.")
    color: float = Field(default=0.2, ge=0, le=1, description="Jitter of brightness, contrast, saturation.")
    policy: AugmentPolicy = Field(
        default="none", description="Operations drawn from a list: two or so of one strength, or one of any strength."
    )
    magnitude: int | None = Field(
        default=None, ge=0, le=30, description="Strength of each operation of randaugment; null means 9."
    )
    ops: int | None = Field(
        default=None, ge=1, le=14, description="Operations that randaugment applies to an image; null means 2."
    )
    erasing: float = Field(
        default=0, ge=0, le=1, description="Probability that a rectangle of an image is painted over."
    )
    mixup: float = Field(
        default=0, ge=0, le=100, description="Alpha of mixup: two images and their labels are blended; 0: none."
    )
    cutmix: float = Field(
        default=0, ge=0, le=100, description="Alpha of cutmix: a box of one image is put into another; 0: none."
    )


class Run(Section):
    """The machine; nothing here changes what is learned, but for rounding."""

    device: DeviceName = Field(default="auto", description="Where to compute.")
    workers: int | None = Field(
        default=None, ge=0, le=64, description="Threads that read images; 0: the main one; null: one for each core."
    )
    deterministic: bool = Field(
        default=False, description="On CUDA the same bits in every run, from slower kernels; a CPU gives them anyway."
    )
    compile: Literal["auto", "never", "always"] = Field(
        default="auto",
        description="torch.compile; auto: on the frozen part where it repays its time; always: in a training loop too.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="Number format of the network; auto: bf16 where the hardware has it and it pays."
    )
    augment: Literal["auto", "threads", "device"] = Field(
        default="auto",
        description="Where light is changed and erasing done, to the same bits; auto: on a GPU that has waited.",
    )
    track: Trackers = Field(
        default=(), description="Where metrics go beside metrics.jsonl and .csv: tensorboard, mlflow, wandb."
    )


class Export(Section):
    """What an export in fewer bits than float32 may cost; one that costs more is not written."""

    max_drop: float = Field(
        default=1, ge=0, le=100, description="Points of validation accuracy that fp16 or int8 may cost."
    )
    min_agreement: float = Field(
        default=0.9, ge=0, le=1, description="Share of validation images that must keep float32's answer."
    )


SECTIONS: dict[str, type[Section]] = {
    "data": Data,
    "model": Model,
    "features": Features,
    "head": Head,
    "train": Train,
    "augment": Augment,
    "run": Run,
    "export": Export,
}

KEYS = ["mode", "seed", *(f"{name}.{key}" for name in SECTIONS for key in SECTIONS[name].model_fields)]
"""The dotted name of every setting."""

RENAMED_KEYS = {"data.keep_pictures": "data.keep_images"}
"""Keys of older recipes, also those in run folders -> what they are called now."""


def with_new_keys(tree: Any) -> Any:
    """Return a recipe's tree with today's names in place of `RENAMED_KEYS`; anything that is not a mapping as it is."""
    if not isinstance(tree, Mapping):
        return tree
    for old, new in RENAMED_KEYS.items():
        section, leaf = old.split(".")
        values = tree.get(section)
        if isinstance(values, Mapping) and leaf in values:
            kept = {key: value for key, value in values.items() if key != leaf}
            tree = {**tree, section: {new.partition(".")[2]: values[leaf], **kept}}
    return tree


class Settings(Section):
    """All sections, and what stands beside them."""

    mode: Mode = Field(
        default="freeze",
        description="freeze: fit a head on a frozen backbone; finetune: train all from pretrained weights; "
        "lp-ft: first the head, then all; auto: the better of lp-ft and freeze; scratch: from nothing.",
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="Decides the split, the order and the augmentation.")
    data: Data = Data()
    model: Model = Model()
    features: Features = Features()
    head: Head = Head()
    train: Train = Train()
    augment: Augment | None = Field(
        default=None, description="How training images are varied; null means the default of the mode."
    )
    run: Run = Run()
    export: Export = Export()

    @model_validator(mode="before")
    @classmethod
    def _read_renamed_keys(cls, tree: Any) -> Any:
        return with_new_keys(tree)

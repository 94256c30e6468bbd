"""The sections of a recipe as a user writes it: each setting with its type, range, default and one line about it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cnn_tl.core.choices import HeadKind
from cnn_tl.core.device import DeviceName
from cnn_tl.core.errors import UsageError
from cnn_tl.core.preprocessing import MAX_PIXELS, MIN_SIDE
from cnn_tl.recipe.types import (
    AugmentPolicy,
    BatchNorm,
    ClassWeights,
    Groups,
    LearningRate,
    PathText,
    Policies,
    Policy,
    Split,
    Trackers,
    Views,
    is_group_file,
)


class Section(BaseModel):
    """Frozen and strict: no unknown keys, no guessing of types, no NaN and no infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Data(Section):
    """Which images, and how they are split and checked."""

    path: PathText | None = Field(default=None, description="Folder of class folders, or of train and val.")
    train: PathText | None = Field(
        default=None,
        description="Folder of the training classes, below path; . is all of path; null: found by its name.",
    )
    val: PathText | None = Field(default=None, description="The same for val, which decides which model is kept.")
    test: PathText | None = Field(default=None, description="The same for test, which no choice depends on.")
    exclude: PathText | None = Field(
        default=None,
        description="File of images to leave out, one path below path a line, such as doctor's exclude.txt.",
    )
    relabel: PathText | None = Field(
        default=None, description="CSV file of new labels, with the columns image and label; no image is moved."
    )
    groups: Groups | None = Field(
        default=None,
        description="Images that stay in one split: twins, a regular expression of their paths, or a CSV file.",
    )
    val_fraction: float = Field(
        default=0.2, gt=0, le=0.5, description="Share of each class held out for validation, if there is no val."
    )
    on_bad_image: Literal["skip", "fail"] = Field(
        default="skip", description="Set a broken image aside and name it, or end the run."
    )
    max_pixels: int = Field(
        default=MAX_PIXELS, ge=1, le=2**40, description="An image with more pixels is refused before it is decoded."
    )
    min_side: int = Field(default=MIN_SIDE, ge=1, le=8192, description="An image with a shorter side is refused.")
    keep_images: bool = Field(
        default=True, description="Whether a training loop decodes each image once, and keeps it for later runs too."
    )
    memory_gb: float = Field(
        default=1,
        ge=0,
        le=1e6,
        description="Memory limit, in GB, for kept images that do not fit in the cache, or in the memory of a GPU.",
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
    def group_file(self) -> str | None:
        """The CSV file that `groups` names; None if it is something else."""
        return self.groups if self.groups is not None and is_group_file(self.groups) else None

    @property
    def splits(self) -> dict[Split, str]:
        """The folders of the splits that are named one by one."""
        named: dict[Split, str | None] = {"train": self.train, "val": self.val, "test": self.test}
        return {split: text for split, text in named.items() if text is not None}


class Model(Section):
    """Which network, where its weights come from, and what trains."""

    name: str = Field(default="tf_efficientnet_lite0", min_length=1, description="Any timm model; see cnn-tl models.")
    weights: PathText | None = Field(
        default=None, description="Weights file; null: from an installed package, or from the hub."
    )
    image_size: int | None = Field(
        default=None, ge=8, le=4096, description="Side of the input in pixels; null: the model's own."
    )
    freeze: Policy | None = Field(
        default=None,
        description="What trains: head, last-stage, last-N, norm (layers), all, or a list of names; null: the mode's.",
    )
    unfreeze: Policies | None = Field(
        default=None, description="Gradual unfreezing: the policies that follow freeze, one phase each."
    )
    unfreeze_every: int | None = Field(
        default=None, ge=1, le=100_000, description="Epochs of each phase of unfreeze; null: 1."
    )
    bn: BatchNorm | None = Field(
        default=None,
        description="Statistics of BatchNorm in layers that train: updated, fixed, or synchronised between processes.",
    )


class Features(Section):
    """What the frozen part of the network computes once and keeps."""

    views: Views | None = Field(
        default=None,
        description="Views kept of each image: the plain one, then augmented ones; fresh: new ones each epoch.",
    )
    cache: bool = Field(default=True, description="Keep features in this machine's cache, for later runs.")
    budget_gb: float = Field(default=10, gt=0, le=1e6, description="Size limit of the cache, in GB.")


class Head(Section):
    """How the head is fitted on features of a frozen backbone; null: the default of its kind."""

    kind: HeadKind = Field(
        default="auto",
        description="Logistic or ridge regression, both, AdamW, neighbours, class means; auto: lbfgs+ridge or ridge.",
    )
    class_weights: ClassWeights = Field(
        default="none", description="Weight of each class: none, balanced (rare classes weigh more), or class: weight."
    )
    penalty: float | None = Field(
        default=None, gt=0, description="L2 penalty of lbfgs and ridge; null: chosen by cross-validation."
    )
    hidden: int | None = Field(
        default=None,
        ge=1,
        le=65_536,
        description="Width of the hidden layer of an adamw head; null: none, the head is linear.",
    )
    dropout: float | None = Field(default=None, ge=0, lt=1, description="Dropout before each layer of an adamw head.")
    label_smoothing: float | None = Field(
        default=None, ge=0, lt=1, description="Probability that an adamw head spreads evenly over all classes."
    )
    epochs: int | None = Field(default=None, ge=1, le=100_000, description="Epochs of an adamw head.")
    batch_size: int | None = Field(default=None, ge=1, le=1_000_000, description="Images in a step of an adamw head.")
    lr: float | None = Field(default=None, gt=0, le=100, description="Peak learning rate of an adamw head.")
    weight_decay: float | None = Field(default=None, ge=0, le=10, description="Weight decay of an adamw head.")
    neighbours: int | None = Field(default=None, ge=1, le=10_000, description="Neighbours that vote in a knn head.")


class Train(Section):
    """The training loop; null: the default of the mode."""

    epochs: int | None = Field(default=None, ge=1, le=100_000, description="Passes over the training images.")
    steps: int | None = Field(
        default=None, ge=1, le=10**9, description="Length of the run in updates, instead of epochs."
    )
    batch_size: int | None = Field(default=None, ge=1, le=65_536, description="Images in a step.")
    micro_batch: int | None = Field(
        default=None, ge=1, le=65_536,
        description="Images that pass the network at once, where a step is split; null: as many as fit.",
    )  # fmt: skip
    optimizer: str | None = Field(
        default=None, pattern=r"^[a-z0-9]+$", description="adamw, sgd (Nesterov), or another of timm's factory."
    )
    momentum: float | None = Field(
        default=None, ge=0, lt=1, description="Momentum of SGD and similar optimisers; null: 0.9."
    )
    lr: LearningRate | None = Field(
        default=None, description="Peak learning rate of the backbone; auto: from a range test."
    )
    head_start: Literal["fitted", "random"] | None = Field(
        default=None, description="The head that finetune starts with: fitted on frozen features, or random."
    )
    head_lr_factor: float | None = Field(
        default=None, gt=0, le=10_000, description="Learning rate of the head, as a multiple of lr."
    )
    layer_decay: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Factor on the learning rate for each layer towards the input; 1: the same for all.",
    )
    weight_decay: float | None = Field(
        default=None, ge=0, le=10, description="Weight decay, except on norms and biases."
    )
    schedule: Literal["cosine", "one-cycle", "step", "constant"] | None = Field(
        default=None, description="Learning rate schedule after the warm-up."
    )
    warmup: float | None = Field(
        default=None, ge=0, le=1, description="Share of the steps in which the learning rate warms up."
    )
    decay_every: float | None = Field(
        default=None, gt=0, le=1, description="Schedule step: share of the steps between decays."
    )
    decay_rate: float | None = Field(
        default=None, gt=0, le=1, description="Schedule step: factor on the learning rate at each decay."
    )
    loss: Literal["cross-entropy", "focal"] | None = Field(
        default=None, description="Focal loss weighs hard images more."
    )
    focal_gamma: float | None = Field(
        default=None, ge=0, le=10, description="Focusing exponent of focal loss; 0 is cross-entropy."
    )
    aux_weight: float | None = Field(
        default=None,
        ge=0,
        le=10,
        description="Weight of the loss of each auxiliary classifier of googlenet; 0: trained without them.",
    )
    label_smoothing: float | None = Field(
        default=None, ge=0, lt=1, description="Probability spread evenly over all classes."
    )
    class_weights: ClassWeights | None = Field(
        default=None,
        description="Weight of each class in the loss: none, balanced (rare classes weigh more), or class: weight.",
    )
    sampling: Literal["natural", "balanced"] | None = Field(
        default=None, description="Sample classes at their natural frequency, or all equally often."
    )
    clip_grad: float | None = Field(default=None, gt=0, description="Largest gradient norm; 1e9: never clip.")
    ema: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="Decay of the moving average of the weights, which is then the model; 0: none.",
    )
    temperature: Literal["fitted", "none"] | None = Field(
        default=None, description="fitted: calibrate the logits on the validation images after training."
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        le=100_000,
        description="Epochs without improvement after which training stops early; null: never.",
    )


class Augment(Section):
    """How training images are varied each time they are seen."""

    crop_scale_min: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="Smallest share of the image's area that a random crop covers, where its shape allows.",
    )
    flip: bool = Field(default=True, description="Flip half of the images horizontally.")
    color: float = Field(default=0.2, ge=0, le=1, description="Jitter of brightness, contrast and saturation.")
    policy: AugmentPolicy = Field(
        default="none",
        description="Random operations: several of one strength (randaugment), or one of any (trivialaugment).",
    )
    magnitude: int | None = Field(
        default=None, ge=0, le=30, description="Strength of each operation of randaugment; null: 9."
    )
    ops: int | None = Field(
        default=None, ge=1, le=14, description="Operations that randaugment applies to an image; null: 2."
    )
    erasing: float = Field(default=0, ge=0, le=1, description="Probability that a rectangle of an image is erased.")
    mixup: float = Field(
        default=0, ge=0, le=100, description="Alpha of mixup, which blends two images and their labels; 0: off."
    )
    cutmix: float = Field(
        default=0, ge=0, le=100, description="Alpha of cutmix, which pastes a box of one image into another; 0: off."
    )


class Run(Section):
    """The machine; nothing here changes what is learned, except for rounding."""

    device: DeviceName = Field(default="auto", description="Where to compute.")
    workers: int | None = Field(
        default=None,
        ge=0,
        le=64,
        description="Threads or processes that read images; 0: the main thread; null: one for each core.",
    )
    deterministic: bool = Field(
        default=False, description="The same bits in every run on CUDA, with slower kernels; a CPU gives them anyway."
    )
    compile: Literal["auto", "never", "always"] = Field(
        default="auto",
        description="Of a loop's steps; auto: CUDA graphs; always: torch.compile; never: neither.",
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="Of a loop, and of the frozen network on a GPU; auto: the faster; fp32: of predictions, too.",
    )
    sources: Literal["auto", "device", "pinned", "disk", "decode", "threads"] = Field(
        default="auto",
        description="Where a GPU finds images to draw views of; auto: the first with room; threads: the CPU draws.",
    )
    track: Trackers = Field(
        default=(), description="Trackers besides metrics.jsonl and metrics.csv: tensorboard, mlflow, wandb."
    )
    report: bool = Field(
        default=True, description="Write report.html, one page about the finished run; takes at most 1 s or 3%."
    )


class Export(Section):
    """What an export in fewer bits than float32 may cost; one that costs more is not written."""

    max_drop: float = Field(
        default=1, ge=0, le=100, description="Points of validation accuracy that fp16 or int8 may cost."
    )
    min_agreement: float = Field(
        default=0.9, ge=0, le=1, description="Share of validation images that must get the same answer as in float32."
    )

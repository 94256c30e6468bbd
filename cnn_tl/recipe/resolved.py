"""What a run does: a type for each way of training, in which every setting has a value.

`Recipe` is what a user writes, where null leaves a setting to the mode; `Recipe.resolve` makes one of these from it. A
section or setting that has no meaning in a mode, or for a kind of head, does not exist on its type. None is left only
where null is a choice of its own: `model.weights` (the model's own), `head.penalty` (cross-validated), `train.patience`
(never stop early).

A setting that another one leaves without effect has a neutral value here: `train.focal_gamma` is 0 where the loss is
cross-entropy. Such a value was not chosen, so it is not written into the run folder.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from cnn_tl.core.choices import HeadKind, Mode
from cnn_tl.recipe.schema import Data, Export, Run, Section
from cnn_tl.recipe.types import AugmentPolicy, BatchNorm, ClassWeights, LearningRate, PathText, Policy, Views


class Resolved(Section):
    """A section whose dump is its written form: without neutral values, and without null."""

    model_config = ConfigDict(defer_build=True)  # a run needs the types of its own mode only

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        chosen = {key: value for key, value in handler(self).items() if key in self.model_fields_set}
        return self._written({key: value for key, value in chosen.items() if value is not None})

    def _written(self, tree: dict[str, Any]) -> dict[str, Any]:
        return tree


class FrozenModel(Resolved):
    """The network of mode freeze, in which only the head is fitted."""

    name: str
    weights: PathText | None = None
    image_size: int | None = None
    freeze: Literal["head"]


class TrainedModel(Resolved):
    """The network of a training loop, and what trains in it."""

    name: str
    weights: PathText | None = None
    image_size: int | None = None
    freeze: Policy
    unfreeze: tuple[Policy, ...] = ()
    unfreeze_every: int = 1
    bn: BatchNorm

    @property
    def policies(self) -> tuple[Policy, ...]:
        """What trains, phase by phase; one phase unless layers are unfrozen gradually."""
        return (self.freeze, *self.unfreeze)


class FreezeFeatures(Resolved):
    """The features that a head is fitted on."""

    views: Views
    cache: bool
    budget_gb: float


class LoopFeatures(Resolved):
    """The activations of the frozen part in a training loop; `views` is None where every layer trains."""

    views: Views | None = None
    cache: bool
    budget_gb: float


class _Head(Resolved):
    class_weights: ClassWeights

    @property
    def passes(self) -> int:
        """How often the fit sees the training images."""
        return 1


class AutoHead(_Head):
    """Logistic and ridge regression together, or ridge alone, whichever suits the size of the problem."""

    kind: Literal["auto"]


class LbfgsRidgeHead(_Head):
    """A weighted mean of logistic and ridge regression."""

    kind: Literal["lbfgs+ridge"]


class LbfgsHead(_Head):
    """Logistic regression; without a penalty, cross-validation chooses it."""

    kind: Literal["lbfgs"]
    penalty: float | None = None


class RidgeHead(_Head):
    """Ridge regression; without a penalty, cross-validation chooses it."""

    kind: Literal["ridge"]
    penalty: float | None = None


class AdamwHead(_Head):
    """A linear head, or one with a hidden layer, trained by AdamW."""

    kind: Literal["adamw"]
    hidden: int | None = None
    dropout: float
    label_smoothing: float
    epochs: int
    batch_size: int
    lr: float
    weight_decay: float

    @property
    def passes(self) -> int:
        """How often the fit sees the training images: once an epoch."""
        return self.epochs


class KnnHead(_Head):
    """The vote of the nearest training images."""

    kind: Literal["knn"]
    neighbours: int


class PrototypeHead(_Head):
    """The nearest class mean."""

    kind: Literal["prototype"]


_Linear = AutoHead | LbfgsRidgeHead | LbfgsHead | RidgeHead | AdamwHead | PrototypeHead
LinearHead = Annotated[_Linear, Field(discriminator="kind")]
"""A head that fine-tuning can start from."""

ResolvedHead = Annotated[_Linear | KnnHead, Field(discriminator="kind")]

HEAD_TYPES: dict[HeadKind, type[Any]] = {
    get_args(head.model_fields["kind"].annotation)[0]: head for head in (*get_args(_Linear), KnnHead)
}
"""Kind -> its type."""


class Length(Section):
    """How long a training loop runs: a number of epochs, or of steps."""

    count: int
    unit: Literal["epochs", "steps"]

    def steps(self, steps_per_epoch: int) -> int:
        """Return the number of steps."""
        return self.count if self.unit == "steps" else self.count * steps_per_epoch

    def epochs(self, steps_per_epoch: int) -> int:
        """Return the number of epochs, the last of which may be cut short."""
        return self.count if self.unit == "epochs" else -(-self.count // steps_per_epoch)


class Embedding(Resolved):
    """How images pass the frozen backbone: `batch_size` at once, or as many as this machine embeds fastest."""

    batch_size: int | None = None


class LoopTrain(Resolved):
    """The training loop; `optimizer` decides the momentum where it is None, and memory the micro-batch."""

    length: Length
    batch_size: int
    micro_batch: int | None = None
    optimizer: str
    momentum: float | None = None
    lr: LearningRate
    head_lr_factor: float
    layer_decay: float
    weight_decay: float
    schedule: Literal["cosine", "one-cycle", "step", "constant"]
    warmup: float
    decay_every: float = 1.0
    decay_rate: float = 1.0
    loss: Literal["cross-entropy", "focal"]
    focal_gamma: float = 0.0
    aux_weight: float = 0.0
    label_smoothing: float
    class_weights: ClassWeights
    sampling: Literal["natural", "balanced"]
    clip_grad: float
    ema: float
    temperature: Literal["fitted", "none"]
    patience: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_length(cls, tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        units: tuple[Literal["epochs"], Literal["steps"]] = ("epochs", "steps")
        rest = {key: value for key, value in tree.items() if key not in units}
        for unit in units:
            if unit in tree:
                rest["length"] = Length(count=tree[unit], unit=unit)
        return rest

    def _written(self, tree: dict[str, Any]) -> dict[str, Any]:
        return {self.length.unit: self.length.count} | {key: tree[key] for key in tree if key != "length"}

    def is_longer_than(self, other: LoopTrain) -> bool:
        """Say whether it is the same loop by its unit, and has more of it."""
        return self.length.unit == other.length.unit and self.length.count > other.length.count

    @property
    def epochs(self) -> int | None:
        """The number of epochs, where these say how long the loop is."""
        return self.length.count if self.length.unit == "epochs" else None

    @property
    def steps(self) -> int | None:
        """The number of steps, where these say how long the loop is."""
        return self.length.count if self.length.unit == "steps" else None


class FinetuneTrain(LoopTrain):
    """The training loop of mode finetune or scratch, which chooses the head that it starts with."""

    head_start: Literal["fitted", "random"]


class ResolvedAugment(Resolved):
    """How training images are varied."""

    crop_scale_min: float
    flip: bool
    color: float
    policy: AugmentPolicy
    magnitude: int = 0
    ops: int = 0
    erasing: float
    mixup: float
    cutmix: float


class _AnyRecipe(Resolved):
    seed: int
    data: Data
    augment: ResolvedAugment | None = None
    """None: the network sees each training image as evaluation does."""
    run: Run
    export: Export

    def _written(self, tree: dict[str, Any]) -> dict[str, Any]:
        return {key: tree[key] for key in _ORDER if key in tree}

    def resolve(self) -> Any:
        """Return the recipe itself, so that a caller need not know which of the two it was given."""
        return self


_ORDER = ("mode", "seed", "data", "model", "features", "head", "train", "augment", "run", "export")


class FreezeRecipe(_AnyRecipe):
    """Fit a head on the features of a frozen backbone."""

    mode: Literal["freeze"]
    model: FrozenModel
    features: FreezeFeatures
    head: ResolvedHead
    train: Embedding

    @property
    def views(self) -> int:
        """How many views of each training image are embedded; of fresh ones, one for each pass of the head."""
        return self.head.passes if self.features.views == "fresh" else self.features.views


class _LoopRecipe(_AnyRecipe):
    mode: Literal["finetune", "scratch", "lp-ft", "auto"]
    model: TrainedModel
    features: LoopFeatures
    train: LoopTrain

    @property
    def fits_head(self) -> bool:
        """Whether the loop fits its head itself before the first step; in mode lp-ft it is given one."""
        return False


class FinetuneRecipe(_LoopRecipe):
    """Train from pretrained weights, or with mode scratch from random ones."""

    mode: Literal["finetune", "scratch"]
    train: FinetuneTrain

    @property
    def fits_head(self) -> bool:
        """Whether the head is fitted on frozen features before the first step."""
        return self.train.head_start == "fitted"


class LpFtRecipe(_LoopRecipe):
    """Fit a head on frozen features, then train everything from there; mode auto keeps the better of the two."""

    mode: Literal["lp-ft", "auto"]
    head: LinearHead

    def head_only(self) -> FreezeRecipe:
        """Return the recipe of the first stage: one plain view of each image, no loop."""
        return FreezeRecipe(
            mode="freeze",
            seed=self.seed,
            data=self.data,
            model=FrozenModel(
                name=self.model.name, weights=self.model.weights, image_size=self.model.image_size, freeze="head"
            ),
            features=FreezeFeatures(views=1, cache=self.features.cache, budget_gb=self.features.budget_gb),
            head=self.head,
            train=Embedding(),
            run=self.run,
            export=self.export,
        )


LoopRecipe = FinetuneRecipe | LpFtRecipe
"""The recipes with a training loop."""

HeadRecipe = FreezeRecipe | LpFtRecipe
"""The recipes that fit a head on frozen features."""

ResolvedRecipe = FreezeRecipe | FinetuneRecipe | LpFtRecipe

RECIPES: dict[Mode, type[FreezeRecipe] | type[FinetuneRecipe] | type[LpFtRecipe]] = {
    "freeze": FreezeRecipe, "finetune": FinetuneRecipe, "scratch": FinetuneRecipe, "lp-ft": LpFtRecipe,
    "auto": LpFtRecipe,
}  # fmt: skip
"""Mode -> its type; looked up here and not by pydantic, so that only the types of one mode are built."""

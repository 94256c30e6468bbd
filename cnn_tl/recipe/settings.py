"""All settings of a recipe as a user writes it, their dotted names, and those that earlier versions had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, model_validator

from cnn_tl.core.choices import Mode
from cnn_tl.recipe.schema import Augment, Data, Export, Features, Head, Model, Run, Section, Train

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
"""Keys of older recipes and run folders -> their names now."""

RETIRED_KEYS = {"run.augment": "run.sources decides where views are drawn"}
"""Keys of older recipes and run folders that have no effect any more -> what replaces them.

They are read and ignored, whatever their value. None of them may change what is learned, except for rounding.
"""


def with_new_keys(tree: Any) -> Any:
    """Return a recipe's tree with `RENAMED_KEYS` under their new names, and without `RETIRED_KEYS`.

    What is not a mapping is returned as it is. A section with both names of a key keeps both, so that validation
    refuses the older one.
    """
    if not isinstance(tree, Mapping):
        return tree
    for key in RETIRED_KEYS:
        section, leaf = key.split(".")
        values = tree.get(section)
        if isinstance(values, Mapping) and leaf in values:
            tree = {**tree, section: {key: value for key, value in values.items() if key != leaf}}
    for old, new in RENAMED_KEYS.items():
        section, leaf = old.split(".")
        new_leaf = new.partition(".")[2]
        values = tree.get(section)
        if isinstance(values, Mapping) and leaf in values and new_leaf not in values:
            kept = {key: value for key, value in values.items() if key != leaf}
            tree = {**tree, section: {new_leaf: values[leaf], **kept}}
    return tree


class Settings(Section):
    """All settings that a user may write; null leaves a setting to the mode."""

    mode: Mode = Field(
        default="freeze",
        description="freeze: fit a head on a frozen backbone; finetune: train all from pretrained weights; "
        "lp-ft: first the head, then all; auto: the better of lp-ft and freeze; scratch: all from random.",
    )
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="Seed of the split, the order and the augmentation.")
    data: Data = Data()
    model: Model = Model()
    features: Features = Features()
    head: Head = Head()
    train: Train = Train()
    augment: Augment | None = Field(
        default=None, description="How training images are varied; null: the default of the mode."
    )
    run: Run = Run()
    export: Export = Export()

    @model_validator(mode="before")
    @classmethod
    def _read_renamed_keys(cls, tree: Any) -> Any:
        return with_new_keys(tree)

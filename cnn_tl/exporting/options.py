"""The options of an export, and which of them each format supports."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

from cnn_tl.core.errors import ResourceError, UsageError, printable

if TYPE_CHECKING:
    from cnn_tl.recipe.schema import Export

Preprocess = Literal["inside", "none"]
Output = Literal["probabilities", "logits", "distance", "features"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Abilities:
    """What a format supports; the first of each is the default.

    Attributes:
        preprocess, precision: one of them.
        outputs: any of them. by_default: those that a file has if nobody asks; a distance only if the model knows it.
    """

    preprocess: tuple[Preprocess, ...] = ("none",)
    outputs: tuple[Output, ...] = ("logits",)
    by_default: tuple[Output, ...] = ("logits",)
    precision: tuple[Precision, ...] = ("fp32",)


_USUAL: tuple[Output, ...] = ("probabilities", "logits", "distance")

ABILITIES: dict[str, Abilities] = {
    "onnx": Abilities(("inside", "none"), get_args(Output), _USUAL, get_args(Precision)),
    "openvino": Abilities(outputs=get_args(Output), by_default=_USUAL),
    "torch": Abilities(outputs=("logits", "distance")),
}
"""Format -> what it supports; any other format is a float32 network from normalised images to logits."""


PACKAGES = {"openvino": "openvino"}
"""Format -> the additional package that it needs."""


def require_package(format: str) -> None:
    """Refuse a format whose package is not installed, before any work is done.

    Raises:
        ResourceError: it is not.
    """
    package = PACKAGES.get(format)
    if package is not None and find_spec(package) is None:
        raise ResourceError(f"--format {format} needs the package {package}: pip install {package}")


@dataclass(frozen=True)
class Options:
    """What an exported model takes and returns; None stands for the default of the format.

    Attributes:
        preprocess: `inside`: it takes whole images, uint8 [N, H, W, 3] of any size; `none`: normalised ones, float32
            [N, 3, height, width].
        outputs: in this order; `logits` must be among them, as they are compared.
        precision: of the network.
        max_drop: points of validation accuracy that a lower precision may cost.
        min_agreement: share of the validation images for which it must give the answer of float32.
    """

    preprocess: Preprocess | None = None
    outputs: tuple[Output, ...] | None = None
    precision: Precision = "fp32"
    max_drop: float | None = None
    min_agreement: float | None = None

    def bounds(self, recipe: Export) -> Export:
        """Return what a lower precision may cost: as the recipe says where the options do not."""
        given = {"max_drop": self.max_drop, "min_agreement": self.min_agreement}
        return recipe.model_copy(update={name: value for name, value in given.items() if value is not None})

    def of(self, format: str) -> FormatOptions:
        """Return the options with the defaults of a format.

        Raises:
            UsageError: the format does not support them.
        """
        able = ABILITIES.get(format, Abilities())
        asked: dict[str, tuple[Any, ...]] = {
            "preprocess": (self.preprocess or able.preprocess[0],),
            "outputs": self.outputs or able.by_default,
            "precision": (self.precision,),
        }
        for option, values in asked.items():
            for value in values:
                if value not in getattr(able, option):
                    raise UsageError(
                        f"{format} cannot be written with --{option} {value}, only with "
                        f"{' or '.join(getattr(able, option))}; --format onnx can"
                    )
        return FormatOptions(
            asked["preprocess"][0], asked["outputs"], self.precision, self.max_drop, self.min_agreement
        )

    @staticmethod
    def check_outputs(given: Iterable[str]) -> tuple[Output, ...]:
        """Return the names of outputs.

        Raises:
            UsageError: one is not the name of an output or is there twice, or `logits` is missing.
        """
        names = tuple(name.strip() for name in given)
        outputs = tuple(output for name in names for output in get_args(Output) if output == name)
        if len(outputs) != len(names) or len(set(names)) != len(names) or "logits" not in names:
            raise UsageError(
                f"--outputs {printable(','.join(names))}: name logits, and probabilities, distance and features if "
                "wanted, once"
            )
        return outputs


@dataclass(frozen=True)
class FormatOptions(Options):
    """Options that a format supports, with its defaults filled in."""

    preprocess: Preprocess = "none"
    outputs: tuple[Output, ...] = ("logits",)

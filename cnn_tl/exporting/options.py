"""What an export is asked to be, and what each format can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, get_args

from cnn_tl.core.errors import ResourceError, UsageError, printable

if TYPE_CHECKING:
    from cnn_tl.recipe.sections import Export

Preprocess = Literal["inside", "none"]
Output = Literal["probabilities", "logits", "features"]
Precision = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Abilities:
    """What a format can be asked for; the first of each is what it is by default.

    Attributes:
        preprocess, precision: single choices.
        outputs: all that there can be; without being asked, it gives them but for the features.
    """

    preprocess: tuple[Preprocess, ...] = ("none",)
    outputs: tuple[Output, ...] = ("logits",)
    precision: tuple[Precision, ...] = ("fp32",)


ABILITIES: dict[str, Abilities] = {
    "onnx": Abilities(("inside", "none"), get_args(Output), get_args(Precision)),
    "openvino": Abilities(outputs=get_args(Output)),
}
"""Format -> what it can be asked for; any other is a plain float32 network from normalised images to logits."""


PACKAGES = {"openvino": "openvino"}
"""Format -> the package, and extra of ours, that it needs beside the usual ones."""


def require_package(format: str) -> None:
    """Refuse a format whose package is not installed, before any work.

    Raises:
        ResourceError: it is not.
    """
    package = PACKAGES.get(format)
    if package is not None and find_spec(package) is None:
        raise ResourceError(f'--format {format} needs the package {package}: pip install "cnn-tl[{package}]"')


@dataclass(frozen=True)
class Options:
    """What the exported model takes and gives; None stands for what the format is by default.

    Attributes:
        preprocess: `inside`: it takes whole images, uint8 [N, H, W, 3] of any size; `none`: normalised ones, float32
            [N, 3, height, width].
        outputs: in this order; `logits` among them, by which the export is compared.
        precision: of the network's numbers.
        max_drop: points of validation accuracy that a lower precision may cost.
        min_agreement: share of the validation images to which it must give float32's answer.
    """

    preprocess: Preprocess | None = None
    outputs: tuple[Output, ...] | None = None
    precision: Precision = "fp32"
    max_drop: float | None = None
    min_agreement: float | None = None

    def within(self, bounds: Export) -> Options:
        """Return them with the bounds of a recipe where they have none of their own."""
        return replace(
            self,
            max_drop=bounds.max_drop if self.max_drop is None else self.max_drop,
            min_agreement=bounds.min_agreement if self.min_agreement is None else self.min_agreement,
        )

    def of(self, format: str) -> Options:
        """Return them complete, for a format.

        Raises:
            UsageError: the format cannot be what is asked for.
        """
        able = ABILITIES.get(format, Abilities())
        asked: dict[str, tuple[Any, ...]] = {
            "preprocess": (self.preprocess or able.preprocess[0],),
            "outputs": self.outputs or tuple(name for name in able.outputs if name != "features"),
            "precision": (self.precision,),
        }
        for option, values in asked.items():
            for value in values:
                if value not in getattr(able, option):
                    raise UsageError(
                        f"{format} cannot be written with --{option} {value}, only with "
                        f"{' or '.join(getattr(able, option))}; --format onnx can"
                    )
        return replace(self, preprocess=asked["preprocess"][0], outputs=asked["outputs"])

    @staticmethod
    def read_outputs(text: str) -> tuple[Output, ...]:
        """Read names with commas between them.

        Raises:
            UsageError: one of them is no output, or comes twice; `logits`, by which an export is proven, are missing.
        """
        names = tuple(name.strip() for name in text.split(","))
        outputs = tuple(output for name in names for output in get_args(Output) if output == name)
        if len(outputs) != len(names) or len(set(names)) != len(names) or "logits" not in names:
            raise UsageError(
                f"--outputs {printable(text)}: name logits, and probabilities and features if you want them, each once"
            )
        return outputs

"""What an export is asked to be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from cnn_tl.errors import UsageError, printable

Preprocess = Literal["inside", "none"]
Output = Literal["probabilities", "logits", "features"]


@dataclass(frozen=True)
class Options:
    """What the exported graph takes and gives.

    Attributes:
        preprocess: `inside`: it takes whole pictures, uint8 [N, H, W, 3] of any size; `none`: normalised ones, float32
            [N, 3, height, width].
        outputs: in this order; `logits` among them, by which the export is compared.
    """

    preprocess: Preprocess = "inside"
    outputs: tuple[Output, ...] = ("probabilities", "logits")

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

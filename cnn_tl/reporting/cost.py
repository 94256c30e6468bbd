"""What a trained model costs: time to train, parameters, bytes on disk, images a second."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnn_tl.core.formatting import duration, rate, readable_bytes
from cnn_tl.core.tensor_file import shapes
from cnn_tl.networks import bundle
from cnn_tl.pages.content import Table
from cnn_tl.training.result import TrainResult

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Ends of the names of tensors that are no parameters."""


@dataclass(frozen=True)
class Cost:
    """The cost of a model.

    Attributes:
        seconds: to train; None where unknown. parameters: their number; None for a .onnx file, which may hold them
            folded or quantised.
        bytes: of the weights on disk. image_size: height and width of the input, in pixels.
        images_per_second: of the network with decoding, while features were computed; None where they were not.
    """

    backbone: str
    seconds: float | None
    parameters: int | None
    bytes: int
    image_size: tuple[int, int]
    images_per_second: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def cost_of(folder: Path, result: TrainResult | None = None) -> Cost:
    """Return the cost of a bundle, or of a finished run.

    Args:
        folder: the bundle.
        result: of the run, if it is known.

    Raises:
        ArtefactError: there is no bundle, or it is damaged.
    """
    about = bundle.describe(folder)
    weights, spec = about.path / bundle.WEIGHTS, about.preprocessing
    facts: Mapping[str, Any] = {} if result is None else result.facts
    return Cost(
        backbone=bundle.architecture_name(about.path) if result is None else result.backbone,
        seconds=None if result is None else result.seconds,
        parameters=sum(math.prod(shape) for name, shape in shapes(weights).items() if not name.endswith(STATISTICS)),
        bytes=weights.stat().st_size,
        image_size=(spec.height, spec.width),
        images_per_second=(facts.get("features") or {}).get("images_per_second"),
    )


def cost_of_onnx(path: Path) -> Cost:
    """Return what is known of the cost of a .onnx file.

    Raises:
        ArtefactError: it is missing, damaged or foreign.
    """
    from cnn_tl.networks.onnx_model import OnnxModel

    model = OnnxModel.open(path)
    spec = model.preprocessing
    name = model.facts.get("architecture", "")
    return Cost(name, None, None, path.stat().st_size, (spec.height, spec.width))


def cost_table(cost: Cost, facts: Mapping[str, Any]) -> Table:
    """Return the table of the cost.

    Args:
        facts: those of the result.
    """
    height, width = cost.image_size
    rows = [("backbone", cost.backbone, f"{width} x {height} px")]
    if cost.seconds is not None:
        rows.append(
            ("time", duration(cost.seconds), "to train; since it was resumed" if facts.get("resumed") else "to train")
        )
    rows += [
        *([] if cost.parameters is None else [("parameters", f"{cost.parameters:,}", "")]),
        ("size", readable_bytes(cost.bytes), "weights on disk"),
    ]
    features = facts.get("features") or {}
    if cost.images_per_second is not None:
        rows.append(("embedding", rate(cost.images_per_second), f"{features.get('way')}, {features.get('device')}"))
    if features.get("from_cache"):
        rows.append(("from the cache", f"{features['from_cache']:,}", "features that an earlier run had computed"))
    if epochs := facts.get("epochs"):
        best = facts.get("best_epoch")
        kept = {None: "the last is kept", 0: "none was better than the fitted head"}.get(best, f"epoch {best} is kept")
        rows.append(("epochs", f"{epochs}", kept))
    return Table("Cost", tuple(rows))

"""What a larger backbone would bring, after a run with the default one in mode `freeze` on a CPU."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import points

if TYPE_CHECKING:
    from cnn_tl.recipe import ResolvedRecipe
    from cnn_tl.training.result import TrainResult

LARGER = "tf_efficientnet_lite2"
GAINS = (0.0013, 0.0037, -0.0169, 0.0010, 0.0099, 0.0335, -0.0034)
"""Its accuracy less that of the default backbone: for each data set of the table in guides/models.md, the mean of 20
splits."""


def larger_backbone(recipe: ResolvedRecipe, result: TrainResult) -> list[str]:
    """Return a line on what a larger backbone brings elsewhere, and one on how to find out here; [] if not measured.

    It was measured in mode `freeze` with the default head and the published weights, at their own image size, on a CPU.
    """
    from cnn_tl.recipe.schema import Model

    model, default = recipe.model, Model.model_fields["name"].default
    features = result.facts.get("features") or {}
    has_defaults = (model.name, model.weights, model.image_size) == (default, None, None)
    was_measured = has_defaults and recipe.mode == "freeze" and recipe.head.kind in ("auto", "lbfgs+ridge")
    if not was_measured or not features.get("device", "").startswith("cpu") or result.correct == result.images:
        return []
    mean, spread = points(sum(GAINS) / len(GAINS)), f"{points(min(GAINS), unit='')} to {points(max(GAINS), unit='')}"
    line = f"--model {LARGER} takes twice as long: {mean} on average over {len(GAINS)} data sets ({spread})"
    words = ["cnn-tl", "recommend", recipe.data.path or "DATA"]
    return [line, f"on these images: {' '.join(printable(shlex.quote(word)) for word in words)}"]

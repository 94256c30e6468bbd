"""Transfer learning for image classification. The functions have the names of the commands.

    import cnn_tl

    result = cnn_tl.train("photos")                      # or mode="finetune", model="resnet50", epochs=5, ...
    print(result.accuracy, result.interval, result.baseline)
    for answer in cnn_tl.predict(result, "cat.jpg"):     # paths, folders, PIL images, numpy arrays
        print(answer.label, answer.probability)
    cnn_tl.export(result.run)

`help(cnn_tl.train)` lists every keyword. Every error is a `cnn_tl.CnnTlError` with a message of one line.

Everything is imported at first use, so that `import cnn_tl` is fast. It sets the environment variables that stop other
packages from sending usage statistics (`core.telemetry.NO_TELEMETRY`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cnn_tl.core.telemetry import forbid_telemetry

__version__ = "0.1.0"

forbid_telemetry()  # before a package that sends statistics can be imported

_MODULES = {
    "Answer": "cnn_tl.inference.classifier",
    "Classifier": "cnn_tl.inference.classifier",
    "CnnTlError": "cnn_tl.core.errors",
    "Comparison": "cnn_tl.reporting.compare",
    "Evaluation": "cnn_tl.evaluating.evaluate",
    "Recipe": "cnn_tl.recipe",
    "RecipeError": "cnn_tl.core.errors",
    "TrainResult": "cnn_tl.training.result",
    "benchmark": "cnn_tl.api.analysis",
    "compare": "cnn_tl.api.analysis",
    "evaluate": "cnn_tl.api.analysis",
    "examine": "cnn_tl.api.data",
    "explain": "cnn_tl.api.analysis",
    "export": "cnn_tl.api.prediction",
    "inspect": "cnn_tl.api.analysis",
    "learning_curve": "cnn_tl.api.advising",
    "load": "cnn_tl.api.prediction",
    "load_recipe": "cnn_tl.recipe",
    "lr_find": "cnn_tl.api.training",
    "models": "cnn_tl.networks.pretrained.catalog",
    "predict": "cnn_tl.api.prediction",
    "recipes": "cnn_tl.recipe",
    "recommend": "cnn_tl.api.advising",
    "report": "cnn_tl.api.analysis",
    "train": "cnn_tl.api.training",
}
_RENAMED = {"load_recipe": "load", "models": "search", "recipes": "names"}

__all__ = [
    "Answer",
    "Classifier",
    "CnnTlError",
    "Comparison",
    "Evaluation",
    "Recipe",
    "RecipeError",
    "TrainResult",
    "__version__",
    "benchmark",
    "compare",
    "evaluate",
    "examine",
    "explain",
    "export",
    "inspect",
    "learning_curve",
    "load",
    "load_recipe",
    "lr_find",
    "models",
    "predict",
    "recipes",
    "recommend",
    "report",
    "train",
]

if TYPE_CHECKING:
    from cnn_tl.api.advising import learning_curve, recommend
    from cnn_tl.api.analysis import benchmark, compare, evaluate, explain, inspect, report
    from cnn_tl.api.data import examine
    from cnn_tl.api.prediction import export, load, predict
    from cnn_tl.api.training import lr_find, train
    from cnn_tl.core.errors import CnnTlError, RecipeError
    from cnn_tl.evaluating.evaluate import Evaluation
    from cnn_tl.inference.classifier import Answer, Classifier
    from cnn_tl.networks.pretrained.catalog import search as models
    from cnn_tl.recipe import Recipe
    from cnn_tl.recipe import load as load_recipe
    from cnn_tl.recipe import names as recipes
    from cnn_tl.reporting.compare import Comparison
    from cnn_tl.training.result import TrainResult


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'cnn_tl' has no attribute {name!r}")
    if _MODULES[name] not in ("cnn_tl.core.errors", "cnn_tl.recipe"):  # any other may import torch
        from cnn_tl.core.imports import require_working_directory

        require_working_directory()
    value = getattr(importlib.import_module(_MODULES[name]), _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

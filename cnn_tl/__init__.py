"""Transfer learning for image classification: the functions carry the names of the commands.

    import cnn_tl

    result = cnn_tl.train(cnn_tl.Recipe(data={"path": "pictures"}))
    model = cnn_tl.load(result.run)
    for answer in model.predict(["cat.jpg"]):
        print(answer.label, answer.probability)
    cnn_tl.export(result.run)

Everything is imported at first use, so that `import cnn_tl` costs nothing. It does set the variables that keep other
packages from reporting to their makers (`telemetry.NO_TELEMETRY`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cnn_tl.telemetry import forbid_telemetry

__version__ = "0.1.0"

forbid_telemetry()  # before anything else can be imported that would report to its maker

_HOMES = {
    "Classifier": "cnn_tl.inference.classifier",
    "CnnTlError": "cnn_tl.errors",
    "Recipe": "cnn_tl.recipe",
    "TrainResult": "cnn_tl.training.result",
    "benchmark": "cnn_tl.benchmarking",
    "evaluate": "cnn_tl.evaluating.evaluate",
    "export": "cnn_tl.exporting.export",
    "load": "cnn_tl.inference.classifier",
    "load_recipe": "cnn_tl.recipe",
    "models": "cnn_tl.networks.catalog",
    "predict": "cnn_tl.inference.predict",
    "recipes": "cnn_tl.recipe",
    "train": "cnn_tl.training.train",
}
_RENAMED = {"load_recipe": "load", "models": "search", "recipes": "names"}

__all__ = [
    "Classifier",
    "CnnTlError",
    "Recipe",
    "TrainResult",
    "__version__",
    "benchmark",
    "evaluate",
    "export",
    "load",
    "load_recipe",
    "models",
    "predict",
    "recipes",
    "train",
]

if TYPE_CHECKING:
    from cnn_tl.benchmarking import benchmark
    from cnn_tl.errors import CnnTlError
    from cnn_tl.evaluating.evaluate import evaluate
    from cnn_tl.exporting.export import export
    from cnn_tl.inference.classifier import Classifier, load
    from cnn_tl.inference.predict import predict
    from cnn_tl.networks.catalog import search as models
    from cnn_tl.recipe import Recipe
    from cnn_tl.recipe import load as load_recipe
    from cnn_tl.recipe import names as recipes
    from cnn_tl.training.result import TrainResult
    from cnn_tl.training.train import train


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cnn_tl' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), _RENAMED.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

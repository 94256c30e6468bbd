"""The complete public API."""

from __future__ import annotations

import inspect
import re

import pytest

import cnn_tl

SURFACE = [
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


def test_surface_is_exactly_this() -> None:
    assert cnn_tl.__all__ == SURFACE
    assert dir(cnn_tl) == sorted(SURFACE)


@pytest.mark.parametrize("name", SURFACE)
def test_each_name_is_there_and_documented(name: str) -> None:
    value = getattr(cnn_tl, name)
    assert name == "__version__" or value.__doc__


def test_functions_are_not_hidden_by_modules_of_the_same_name() -> None:
    import cnn_tl.exporting.export
    import cnn_tl.inference.predict
    import cnn_tl.training.run

    assert all(callable(getattr(cnn_tl, name)) for name in ("train", "predict", "export", "models", "recipes", "load"))


@pytest.mark.parametrize("name", ["train", "lr_find", "predict", "evaluate", "explain", "inspect"])
def test_help_has_an_example_and_names_every_keyword(name: str) -> None:
    function = getattr(cnn_tl, name)
    told = inspect.getdoc(function)
    assert told
    assert re.search(rf"^    .*cnn_tl\.{name}\(\"", told, re.MULTILINE), "an example that can be copied"
    words = set(re.findall(r"\w+", told))
    missing = set(inspect.signature(function).parameters) - words
    assert not missing or (name == "lr_find" and "The others are as in `train`" in told), missing


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cnn_tl.nothing  # noqa: B018

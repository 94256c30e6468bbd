"""The public surface, complete."""

from __future__ import annotations

import pytest

import cnn_tl

SURFACE = [
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
    import cnn_tl.training.train

    assert all(callable(getattr(cnn_tl, name)) for name in ("train", "predict", "export", "models", "recipes", "load"))


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cnn_tl.nothing  # noqa: B018

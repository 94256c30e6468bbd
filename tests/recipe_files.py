"""Shared by the tests of recipes: what a recipe is refused with, and what a run folder gives back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnn_tl.core.errors import RecipeError
from cnn_tl.recipe import ResolvedRecipe, load, to_yaml, yaml

Write = Callable[[str], Path]


def refusal(*arguments: Any) -> str:
    """Return the message with which `load` refuses its arguments."""
    with pytest.raises(RecipeError) as caught:
        load(*arguments)
    message = str(caught.value)
    assert message.isprintable(), "one line"
    return message


def reread(made: ResolvedRecipe) -> ResolvedRecipe:
    """Return the recipe that a run folder would give back."""
    return load(yaml.parse(to_yaml(made), source="recipe.yaml"))

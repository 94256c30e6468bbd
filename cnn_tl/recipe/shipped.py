"""The recipes that come with the package."""

from __future__ import annotations

from pathlib import Path

from cnn_tl.core.errors import RecipeError, printable
from cnn_tl.recipe.messages import shortened


def names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def text(name: str) -> str:
    """Return the YAML of a shipped recipe, comments included.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in names():
        known = ", ".join(names())
        raise RecipeError(f"no shipped recipe is called {printable(shortened(name))}; there are {known}")
    return (_folder() / f"{name}.yaml").read_text("utf-8")


def _folder() -> Path:
    """Return where the shipped recipes are: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).parents[1]
    installed = here / "_recipes"
    return installed if installed.is_dir() else here.parent / "recipes"

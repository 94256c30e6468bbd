"""The recipe: one tree of settings that alone says what a run does.

Flags override `--set section.key=value`, which overrides the recipe file. `Recipe` is what a user writes, and
`ResolvedRecipe` what a run does: the mode's defaults filled in. That is written into the run folder, and resuming reads
only that.
"""

from cnn_tl.recipe.loading import load, names, renamed, text, tree_of
from cnn_tl.recipe.recipe import Recipe, diff, json_schema, to_yaml
from cnn_tl.recipe.resolved import ResolvedRecipe
from cnn_tl.recipe.settings import KEYS
from cnn_tl.recipe.validation import faults

__all__ = [
    "KEYS",
    "Recipe",
    "ResolvedRecipe",
    "diff",
    "faults",
    "json_schema",
    "load",
    "names",
    "renamed",
    "text",
    "to_yaml",
    "tree_of",
]

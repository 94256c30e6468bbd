"""The recipe: one tree of settings that alone says what a run does.

Strength rises from the recipe file over `--set section.key=value` to the flags. `resolve` fills in what the
mode leaves open; the result is written into the run folder, and resuming reads only that.
"""

from cnn_tl.recipe.loading import faults, load, tree_of
from cnn_tl.recipe.recipe import Recipe, diff, json_schema, to_yaml
from cnn_tl.recipe.sections import KEYS
from cnn_tl.recipe.shipped import names, text

__all__ = ["KEYS", "Recipe", "diff", "faults", "json_schema", "load", "names", "text", "to_yaml", "tree_of"]

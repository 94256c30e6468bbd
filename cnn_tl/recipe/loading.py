"""Read a recipe: a file, a shipped one or none, then `--set`, then flags. Whatever is wrong is one line."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cnn_tl.core import text_encoding
from cnn_tl.core.errors import RecipeError, printable
from cnn_tl.core.retries import retried
from cnn_tl.recipe import yaml
from cnn_tl.recipe.cross_key_rules import WITHOUT_MEANING_IN_FREEZE
from cnn_tl.recipe.messages import explained, shortened, shown, unknown
from cnn_tl.recipe.recipe import Recipe
from cnn_tl.recipe.resolved import ResolvedRecipe
from cnn_tl.recipe.settings import KEYS, RENAMED_KEYS, RETIRED_KEYS, SECTIONS, with_new_keys

FLAGS_OF_A_LOOP = ("train.epochs", "train.lr")
"""In mode freeze, which has no training loop, an adamw head takes these from the command line."""

_HOW_LONG = {"train.steps": "epochs", "train.epochs": "steps"}
"""Two ways to say how long a run lasts: the one in the source that overrides the other counts."""


def load(
    source: str | Path | Recipe | ResolvedRecipe | Mapping[str, Any] | None = None,
    overrides: Sequence[str] = (),
    flags: Mapping[str, object] | None = None,
    *,
    named: Callable[[str], str] | None = None,
) -> ResolvedRecipe:
    """Read a recipe and return it resolved.

    Args:
        source: the name of a shipped recipe, a YAML file, a recipe or its tree; None starts from the defaults.
        overrides: texts like "train.lr=1e-3", which override the file.
        flags: dotted key -> value, which override both; None means that the flag was not given. In mode freeze the
            flags of the training loop go to an adamw head, which has a loop of its own; with another head they are
            left out, not refused, so that one command line can try every mode.
        named: returns the name of a flag for messages, from its key; by default that of the command line.

    Raises:
        RecipeError: one line with the file, the `--set` or the flag, the key, the value and what is allowed.
    """
    named = named or _flag
    tree = tree_of(source)
    name = printable(source) if isinstance(source, str | Path) else "recipe"
    recipe = _validated(tree, name)
    tree = _without_overridden_length(tree, [text.partition("=")[0].strip() for text in overrides])
    for text in overrides:
        key, equals, value = text.partition("=")
        origin = f"--set {shlex.quote(printable(shortened(text)))}"  # colons of its own must not run into ours
        if not (equals and key.strip()):
            raise RecipeError(f"{origin}: write it as section.key=value")
        tree = with_setting(tree, key.strip(), yaml.parse(value, source=origin, numbered="\n" in value), origin)
        recipe = _validated(tree, origin)
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    deciding = ("mode", "head.kind")  # what the other flags mean depends on these
    for key in sorted(given, key=lambda key: key not in deciding):
        loop_in_head = recipe.mode == "freeze" and recipe.head.kind == "adamw" and key in FLAGS_OF_A_LOOP
        place = f"head.{key.partition('.')[2]}" if loop_in_head else key
        changed = with_setting(_without_overridden_length(tree, [place]), place, given[key], named(key))
        checked = _validated(changed, named(key))
        if not (recipe.mode == "freeze" and place in WITHOUT_MEANING_IN_FREEZE):
            tree, recipe = changed, checked
    try:
        return recipe.resolve()
    except RecipeError as error:
        raise RecipeError(f"{name}: {error}") from None


def tree_of(source: str | Path | Recipe | ResolvedRecipe | Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a source of settings says, section by section, and nothing of the defaults.

    Raises:
        RecipeError: it cannot be read.
    """
    if isinstance(source, Recipe):
        return source.model_dump(exclude_unset=True)
    if isinstance(source, ResolvedRecipe):
        return source.model_dump(exclude_none=True)
    if source is None or isinstance(source, Mapping):
        return dict(source or {})
    return _read_tree(source)


def renamed(source: str | Path | None, overrides: Sequence[str] = ()) -> Iterator[str]:
    """Yield a line for each key of an earlier version that a file or a `--set` still gives: renamed, or without effect.

    Raises:
        RecipeError: the file cannot be read.
    """
    found = []
    if source is not None:
        lines = yaml.parse_all(read_text(source), source=str(source))[1]
        found += [(f"{printable(source)}:{line}", key) for key, line in lines.items()]
    for text in overrides:
        key, _, value = text.partition("=")
        inside = yaml.parse_all(value, source=text)[1]
        found += [("--set", name) for name in (key.strip(), *(f"{key.strip()}.{leaf}" for leaf in inside))]
    for place, key in found:
        if key in RENAMED_KEYS:
            yield f"{place}: {key} is now called {RENAMED_KEYS[key]}; the earlier name still works"
        if key in RETIRED_KEYS:
            yield f"{place}: {key} no longer has an effect: {RETIRED_KEYS[key]}; remove it"


def names() -> list[str]:
    """Return the names of the shipped recipes."""
    return sorted(path.stem for path in _shipped().glob("*.yaml"))


def text(name: str) -> str:
    """Return the YAML of a shipped recipe, comments included.

    Raises:
        RecipeError: there is none of that name.
    """
    if name not in names():
        known = ", ".join(names())
        raise RecipeError(f"no shipped recipe is called {printable(shortened(name))}; there are {known}")
    return (_shipped() / f"{name}.yaml").read_text("utf-8")


def no_mapping(value: object) -> str:
    """Say what a file holds in place of a recipe."""
    what = "is empty" if value is None else f"holds {shown(value)}"
    return f"{what}; a recipe is a mapping that begins like mode: freeze"


def without_empty(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree without sections of which every line is commented out."""
    return {key: item for key, item in tree.items() if not (item is None and key in SECTIONS)}


def _read_tree(source: str | Path) -> dict[str, Any]:
    value = yaml.parse(read_text(source), source=str(source))
    if not isinstance(value, dict):
        raise RecipeError(f"{printable(source)}: {no_mapping(value)}")
    return without_empty(value)


def read_text(source: str | Path) -> str:
    """Return the text of a shipped recipe or of a file.

    Raises:
        RecipeError: it is neither, or the file cannot be read.
    """
    where = printable(source)
    if isinstance(source, str) and source in names():
        return text(source)
    try:
        if not Path(source).is_file():
            raise RecipeError(f"{where} is neither a file nor a shipped recipe ({', '.join(names())})")
        return retried(lambda: text_encoding.read_text(Path(source), yaml.MAX_BYTES), Path(source))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{where}:{line}: not UTF-8 text; save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"{where} cannot be read: {reason}") from error


def _without_overridden_length(tree: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return the tree without the length of a run, where one of these keys, which override it, gives another."""
    others = {_HOW_LONG[key] for key in keys if key in _HOW_LONG}
    train = tree.get("train")
    if not (others and isinstance(train, dict)):
        return tree
    return {**tree, "train": {key: value for key, value in train.items() if key not in others}}


def with_setting(tree: Mapping[str, Any], key: str, value: object, origin: str) -> dict[str, Any]:
    """Return a copy of the tree in which the dotted key has another value."""
    key = RENAMED_KEYS.get(key, key)
    tree = with_new_keys(tree)  # else the old name in a file would contradict the new one here
    if key in RETIRED_KEYS:
        return dict(tree)
    if key not in KEYS and key not in SECTIONS:
        raise RecipeError(f"{origin}: {unknown(key)}")
    section, dot, leaf = key.partition(".")
    if dot:
        value = {**(tree.get(section) or {}), leaf: value}
    return {**tree, section: value}


def _validated(tree: Mapping[str, Any], origin: str) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(f"{origin}: {explained(error)}") from None


def _flag(key: str) -> str:
    named = {"data.path": "DATA", "model.name": "--model", "head.kind": "--head"}
    return named.get(key) or "--" + key.rpartition(".")[2].replace("_", "-")


def _shipped() -> Path:
    """Return the folder of the shipped recipes: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).parents[1]
    installed = here / "_recipes"
    return installed if installed.is_dir() else here.parent / "recipes"

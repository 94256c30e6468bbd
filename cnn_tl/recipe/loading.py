"""Reading a recipe: a file, a shipped one or none, then `--set`, then flags; what is wrong is one line."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cnn_tl import encoding
from cnn_tl.errors import RecipeError, printable
from cnn_tl.recipe import shipped, yaml
from cnn_tl.recipe.defaults import WITHOUT_MEANING_IN_FREEZE
from cnn_tl.recipe.recipe import KEYS, Recipe
from cnn_tl.recipe.rules import contradictions
from cnn_tl.recipe.sections import SECTIONS
from cnn_tl.recipe.words import shortened, shown
from cnn_tl.transient import retried

FLAGS_OF_A_LOOP = ("train.epochs", "train.lr")
"""What an adamw head takes from the command line in place of the training loop that mode freeze does not have."""

_HOW_LONG = {"train.steps": "epochs", "train.epochs": "steps"}
"""Two ways to say one thing: what the stronger source says is meant, however it says it."""


def load(
    source: str | Path | None = None, overrides: Sequence[str] = (), flags: Mapping[str, object] | None = None
) -> Recipe:
    """Read a recipe and return it resolved.

    Args:
        source: the name of a shipped recipe or a YAML file; None starts from the defaults.
        overrides: texts like "train.lr=1e-3", stronger than the file.
        flags: dotted key -> value, stronger still; None means that the flag was not given. In mode freeze the
            flags of the training loop go to an adamw head, which has one of its own; with another head they are
            left out, not refused: one command line can try every mode.

    Raises:
        RecipeError: one line with the file, the `--set` or the flag, the key, the value and what is allowed.
    """
    tree = {} if source is None else _read_tree(source)
    name = "recipe" if source is None else printable(source)
    recipe = _validated(tree, name)
    tree = _without_weaker(tree, [text.partition("=")[0].strip() for text in overrides])
    for text in overrides:
        key, equals, value = text.partition("=")
        origin = f"--set {shlex.quote(printable(shortened(text)))}"  # colons of its own must not run into ours
        if not (equals and key.strip()):
            raise RecipeError(f"{origin}: write it as section.key=value")
        tree = _with(tree, key.strip(), yaml.parse(value, source=origin, numbered="\n" in value), origin)
        recipe = _validated(tree, origin)
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    deciding = ("mode", "head.kind")  # what the other flags mean depends on these
    for key in sorted(given, key=lambda key: key not in deciding):
        loop_in_head = recipe.mode == "freeze" and recipe.head.kind == "adamw" and key in FLAGS_OF_A_LOOP
        place = f"head.{key.partition('.')[2]}" if loop_in_head else key
        stronger = _with(_without_weaker(tree, [place]), place, given[key], _flag(key))
        checked = _validated(stronger, _flag(key))
        if not (recipe.mode == "freeze" and place in WITHOUT_MEANING_IN_FREEZE):
            tree, recipe = stronger, checked
    try:
        return recipe.resolve()
    except RecipeError as error:
        raise RecipeError(f"{name}: {error}") from None


def faults(source: str | Path) -> list[str]:
    """Return all that is wrong with a recipe, one line each, in the order of its lines: none where `load` takes it.

    Each begins with the file and, where one is to blame, the line, as `mine.yaml:7: train.lrr is not a key ...`.
    """
    try:
        text = _read_text(source)
    except RecipeError as error:
        return [str(error)]
    value, lines, found = yaml.parse_all(text, source=str(source))
    if isinstance(value, dict):
        found += [(_line_of(said, lines), said) for said in _faults_of(_without_empty(value))]
    elif not found:
        found = [(0, _no_mapping(value))]
    where = printable(source)
    return [f"{where}:{line}: {said}" if line else f"{where}: {said}" for line, said in sorted(found)]


def _faults_of(tree: dict[str, Any]) -> list[str]:
    """Return what is wrong with each key by itself, then what contradicts what among the others."""
    said = []
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        said = [_explained(one) for one in wrong]
        for one in wrong:
            tree = _pruned(tree, one["loc"])
        try:
            recipe = Recipe.model_validate(tree)
        except ValidationError:
            return said
    against = list(contradictions(recipe))
    if not (said or against):
        try:
            recipe.resolve()
        except RecipeError as error:
            against = [str(error)]
    return [*said, *against]


def _pruned(tree: dict[str, Any], place: tuple[int | str, ...]) -> dict[str, Any]:
    """Return a copy without what stands at this place; in a list, without the whole list."""
    first, *rest = place
    below = tree.get(str(first))
    if rest and isinstance(below, dict):
        return {**tree, str(first): _pruned(below, tuple(rest))}
    return {key: item for key, item in tree.items() if key != first}


def _line_of(said: str, lines: Mapping[str, int]) -> int:
    """Return the line of the key that a message begins with, or of the section that it is missing in; else 0."""
    key = said.partition(" ")[0].rstrip(":")
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key, 0)


def _no_mapping(value: object) -> str:
    what = "is empty" if value is None else f"holds {shown(value)}"
    return f"{what}; a recipe is a mapping that begins like mode: freeze"


def _without_empty(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree without sections whose lines are all commented out: they are none."""
    return {key: item for key, item in tree.items() if not (item is None and key in SECTIONS)}


def _read_tree(source: str | Path) -> dict[str, Any]:
    value = yaml.parse(_read_text(source), source=str(source))
    if not isinstance(value, dict):
        raise RecipeError(f"{printable(source)}: {_no_mapping(value)}")
    return _without_empty(value)


def _read_text(source: str | Path) -> str:
    where = printable(source)
    if isinstance(source, str) and source in shipped.names():
        return shipped.text(source)
    try:
        if not Path(source).is_file():
            raise RecipeError(f"{where} is neither a file nor a shipped recipe ({', '.join(shipped.names())})")
        return retried(lambda: encoding.read_text(Path(source), yaml.MAX_BYTES), Path(source))
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{where}:{line}: not UTF-8 text; save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"{where} cannot be read: {reason}") from error


def _without_weaker(tree: dict[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Return the tree without the length of a run that these keys, of a stronger source, say in another way."""
    others = {_HOW_LONG[key] for key in keys if key in _HOW_LONG}
    train = tree.get("train")
    if not (others and isinstance(train, dict)):
        return tree
    return {**tree, "train": {key: value for key, value in train.items() if key not in others}}


def _with(tree: Mapping[str, Any], key: str, value: object, origin: str) -> dict[str, Any]:
    """Return a copy of the tree in which the dotted key has another value."""
    if key not in KEYS and key not in SECTIONS:
        raise RecipeError(f"{origin}: {_unknown(key)}")
    section, dot, leaf = key.partition(".")
    if dot:
        value = {**(tree.get(section) or {}), leaf: value}
    return {**tree, section: value}


def _validated(tree: Mapping[str, Any], origin: str) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        more = f" (and {len(others)} more)" if others else ""
        raise RecipeError(f"{origin}: {_explained(first)}{more}") from None


def _explained(error: ErrorDetails) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(key)
    if error["type"] == "model_type":
        allowed = f"a section with {_listed(SECTIONS[key].model_fields)}"
    else:
        allowed = error["msg"].removeprefix("Input should be ").removeprefix("String should have ")
    return f"{key}: got {shown(error['input'])}, allowed {allowed}"


def _unknown(key: str) -> str:
    """Say that there is no such key, and name the one whose last part is nearest."""
    section, _, leaf = key.rpartition(".")
    if key in KEYS and section:  # written flat, at the top of a file
        return f"{key} is written in two lines: {section}: and, indented below it, {leaf}: ..."
    leaves = {name.rpartition(".")[2]: name for name in [*KEYS, *SECTIONS]}  # train is a section, and a key of data
    near = difflib.get_close_matches(leaf, leaves, n=1)
    known = _listed(SECTIONS.get(section, Recipe).model_fields)
    hint = f"did you mean {leaves[near[0]]}?" if near else f"known here: {known}"
    return f"{printable(shortened(key))} is not a key of a recipe; {hint}"


def _listed(names: Iterable[str], most: int = 12) -> str:
    """Name what there is, as far as a line goes."""
    first, rest = list(names)[:most], list(names)[most:]
    return ", ".join(first) + (f" and {len(rest)} more (cnn-tl recipes schema)" if rest else "")


def _flag(key: str) -> str:
    named = {"data.path": "DATA", "model.name": "--model", "head.kind": "--head"}
    return named.get(key) or "--" + key.rpartition(".")[2].replace("_", "-")

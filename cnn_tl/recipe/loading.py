"""Reading a recipe: a file, a shipped one or none, then `--set`, then flags; what is wrong is one line."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cnn_tl.core import encoding
from cnn_tl.core.errors import RecipeError, printable
from cnn_tl.core.retries import retried
from cnn_tl.recipe import shipped, yaml
from cnn_tl.recipe.messages import choices, explained, fault, nearest_key, shortened, shown, unknown
from cnn_tl.recipe.recipe import Recipe
from cnn_tl.recipe.resolved import ResolvedRecipe
from cnn_tl.recipe.rules import WITHOUT_MEANING_IN_FREEZE, contradictions
from cnn_tl.recipe.sections import KEYS, RENAMED_KEYS, SECTIONS

FLAGS_OF_A_LOOP = ("train.epochs", "train.lr")
"""What an adamw head takes from the command line in place of the training loop that mode freeze does not have."""

_HOW_LONG = {"train.steps": "epochs", "train.epochs": "steps"}
"""Two ways to say one thing: what the stronger source says is meant, however it says it."""


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
        overrides: texts like "train.lr=1e-3", stronger than the file.
        flags: dotted key -> value, stronger still; None means that the flag was not given. In mode freeze the
            flags of the training loop go to an adamw head, which has one of its own; with another head they are
            left out, not refused: one command line can try every mode.
        named: what a flag is called in a message, by its key; by default as on the command line.

    Raises:
        RecipeError: one line with the file, the `--set` or the flag, the key, the value and what is allowed.
    """
    named = named or _flag
    tree = tree_of(source)
    name = printable(source) if isinstance(source, str | Path) else "recipe"
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
        stronger = _with(_without_weaker(tree, [place]), place, given[key], named(key))
        checked = _validated(stronger, named(key))
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
    """Return what is wrong with each key by itself, then what contradicts what whatever these keys are to be."""
    said: list[str] = []
    wrong: list[ErrorDetails] = []
    try:
        recipe = Recipe.model_validate(tree)
    except ValidationError as error:
        wrong = error.errors(include_url=False)
        said = [fault(one) for one in wrong]
        for one in wrong:
            tree = _pruned(tree, one["loc"])
        try:
            recipe = Recipe.model_validate(tree)
        except ValidationError:
            return said
    against = list(contradictions(recipe))
    for one in wrong:
        for mended in _mended(tree, one):
            holds = set(contradictions(mended))
            against = [line for line in against if line in holds]
    if not (said or against):
        try:
            recipe.resolve()
        except RecipeError as error:
            against = [str(error)]
    return [*said, *against]


_ANY_VALUE = (1, 8, 0.5, True, False, "fresh", "auto", "balanced", "head", "last-stage", "all", ["last-stage", "all"])
"""What a setting that is no choice between words may be; of these a setting takes some."""


def _mended(tree: dict[str, Any], error: ErrorDetails) -> Iterator[Recipe]:
    """Yield recipes in which the key that was wrong, or is mistyped, has one value or another that it may have."""
    key: str | None = ".".join(str(part) for part in error["loc"][:2])
    if error["type"] == "extra_forbidden":
        key = nearest_key(str(key))
    for place in [one for one in KEYS if key is not None and (one == key or one.startswith(f"{key}."))]:
        try:
            Recipe.model_validate(_with(tree, place, "\0", ""))
            continue
        except ValidationError as refused:
            values = choices(refused.errors(include_url=False)[0]) if refused.error_count() == 1 else []
        for value in {*values} or _ANY_VALUE:
            with suppress(ValidationError):
                yield Recipe.model_validate(_with(tree, place, value, ""))


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
    key = RENAMED_KEYS.get(key, key)
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

"""What messages say about a recipe: the key, the value, and what is allowed, in one line."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from typing import get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from cnn_tl.core.choices import FreezePolicy, TrackerName
from cnn_tl.core.errors import printable
from cnn_tl.recipe.settings import KEYS, SECTIONS

_WORDS = {
    "views": ("fresh",), "learning_rate": ("auto",), "class_weights": ("none", "balanced"),
    "policy": get_args(FreezePolicy), "trackers": get_args(TrackerName),
}  # fmt: skip
"""Type of error -> the words that are allowed besides other values."""

_TYPES = {
    "a valid boolean": "true or false",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
}
"""Types in pydantic's words -> in those of a recipe."""


def explained(error: ValidationError) -> str:
    """Return the first error, and how many more there are."""
    first, *others = error.errors(include_url=False)
    return fault(first) + (f" (and {len(others)} more)" if others else "")


def fault(error: ErrorDetails) -> str:
    """Return what is wrong with one key."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return unknown(key)
    if error["type"] == "model_type" and key in SECTIONS:
        allowed = f"a section with {_listed(SECTIONS[key].model_fields)}"
    else:
        allowed = error["msg"].removeprefix("Input should be ").removeprefix("String should have ")
        allowed = _TYPES.get(allowed, allowed)
    near = _nearest(error["input"], choices(error), 0.7)  # gpu is not a typo for cpu
    hint = f"; did you mean {near}?" if near else ""
    return f"{key}: got {shown(error['input'])}, allowed {allowed}{hint}"


def choices(error: ErrorDetails) -> list[str]:
    """Return the words that are allowed instead; none if the value is not a choice between words."""
    if error["type"] == "literal_error":
        return re.findall(r"'([^']*)'", error["ctx"]["expected"])
    return list(_WORDS.get(error["type"], ()))


def _nearest(value: object, words: list[str], alike: float = 0.6) -> str | None:
    near = difflib.get_close_matches(value.lower(), words, 1, alike) if isinstance(value, str) else []
    return near[0] if near else None


def unknown(key: str) -> str:
    """Say that there is no such key, and name the most similar one."""
    section, _, leaf = key.rpartition(".")
    if key in KEYS and section:  # written with its dot, at the top of a file
        return f"{key} is written in two lines: {section}: and, indented below it, {leaf}: ..."
    near = nearest_key(key)
    known = _listed(SECTIONS[section].model_fields if section in SECTIONS else ["mode", "seed", *SECTIONS])
    hint = f"did you mean {near}?" if near else f"known here: {known}"
    return f"{printable(shortened(key))} is not a key of a recipe; {hint}"


def nearest_key(key: str) -> str | None:
    """Return the key or section whose last part is most similar to that of a key that does not exist."""
    leaves = {name.rpartition(".")[2]: name for name in [*KEYS, *SECTIONS]}  # train is both a section and a key of data
    near = _nearest(key.rpartition(".")[2], list(leaves))
    return leaves[near] if near else None


def _listed(names: Iterable[str], most: int = 12) -> str:
    """Return a list for a message, cut to the length of a line."""
    first, rest = list(names)[:most], list(names)[most:]
    return ", ".join(first) + (f" and {len(rest)} more (cnn-tl recipes schema)" if rest else "")


def shown(value: object) -> str:
    """Return a value as it is written in YAML, cut to the length of a line."""
    return shortened(json.dumps(value, default=str))


def shortened(text: str, width: int = 60) -> str:
    """Return a text, or its beginning if it is long."""
    return text if len(text) <= width else text[: width - 3] + "..."


def policy_shown(policy: str | tuple[str, ...] | None) -> str:
    """Return a freeze policy as it is written in a recipe."""
    return policy if isinstance(policy, str) else f"[{', '.join(policy or ())}]"

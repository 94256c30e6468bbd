"""Error messages for Python callers: the library's messages name flags and commands, Python has keywords and calls."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable
from typing import ParamSpec, TypeVar, get_args

from cnn_tl.core.choices import ExplainMethod, ExportFormat, Mode
from cnn_tl.core.errors import CnnTlError

P = ParamSpec("P")
R = TypeVar("R")

RECIPE_KEYS = {
    "mode": "mode", "model": "model.name", "weights": "model.weights", "head": "head.kind", "epochs": "train.epochs",
    "batch_size": "train.batch_size", "lr": "train.lr", "image_size": "model.image_size", "device": "run.device",
    "workers": "run.workers", "seed": "seed",
}  # fmt: skip
"""Keyword of `train` -> the key of the recipe that it sets."""

_OTHER_KEYWORDS = (
    "output", "recipe", "resume", "split", "limit", "robustness", "method", "layer", "patch", "stride", "depth",
    "format", "precision", "preprocess", "outputs", "max_drop", "min_agreement",
    "models", "image_sizes", "budget",
)  # fmt: skip
_KEYWORDS = {name.replace("_", "-"): name for name in (*RECIPE_KEYS, *_OTHER_KEYWORDS)}
_KEYWORDS |= {"class": "label", "channel": "channels"}
_KEYS = {"data": "data.path", **RECIPE_KEYS}
_NAMES = (*get_args(Mode), *get_args(ExportFormat), *get_args(ExplainMethod))
_TEXT_VALUES = rf"{'|'.join(_NAMES)}|train|val|test|cpu|cuda|mps|fp32|fp16|int8|none|inside|[A-Z]{{3,}}"
_CALLS = {
    "cnn-tl train DATA": 'cnn_tl.train("photos")',
    "cnn-tl models QUERY": 'cnn_tl.models("QUERY")',
    "cnn-tl explain RUN IMAGES...": "cnn_tl.explain(RUN, IMAGES)",
}


def with_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Make the errors of a function name keywords instead of flags."""

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        try:
            return function(*args, **keywords)
        except CnnTlError as error:
            if error.args and isinstance(error.args[0], str):
                error.args = (in_keywords(error.args[0]), *error.args[1:])
            raise

    return call


def in_keywords(text: str) -> str:
    """Return a message with keywords for flags and calls for commands, and without naming a keyword twice."""
    path = r"('[^']*'|[^\s;,)]+)"
    text = re.sub(rf"cnn-tl train DATA --output {path}", lambda found: _call("DATA, ", found, ""), text)
    for command, call in _CALLS.items():
        text = text.replace(command, call)
    text = re.sub(rf"cnn-tl train --resume --output {path}", lambda found: _call("", found, ", resume=True"), text)
    text = re.sub(r"--set (\w+)\.(\w+)=([\w.-]+)", r"\1={'\2': '\3'}", text)
    text = re.sub(rf"(?<![^\s('])--([a-z-]+)(?: ({_TEXT_VALUES})\b(?![-.]))?", _keyword, text)
    return re.sub(r"^(\w+): ([\w.]+): ", _once, text)


def _call(first: str, output: re.Match[str], last: str) -> str:
    return f"cnn_tl.train({first}output={shlex.split(output[1])[0]!r}{last})"


def _keyword(found: re.Match[str]) -> str:
    flag, value = found.groups()
    if flag not in _KEYWORDS:
        return found[0]
    return f'{_KEYWORDS[flag]}="{value}"' if value else _KEYWORDS[flag]


def _once(found: re.Match[str]) -> str:
    name, key = found.groups()
    return f"{name}: " if _KEYS.get(name) == key else found[0]

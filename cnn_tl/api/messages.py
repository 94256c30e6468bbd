"""Errors in Python's words: the library's messages name flags and commands, a caller has keywords and functions."""

from __future__ import annotations

import functools
import re
import shlex
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from cnn_tl.core.errors import CnnTlError

P = ParamSpec("P")
R = TypeVar("R")

FLAGS = {
    "mode": "mode", "model": "model.name", "weights": "model.weights", "head": "head.kind", "epochs": "train.epochs",
    "batch_size": "train.batch_size", "lr": "train.lr", "image_size": "model.image_size", "device": "run.device",
    "workers": "run.workers", "seed": "seed",
}  # fmt: skip
"""Keyword -> the key of the recipe that it sets."""

_OTHERS = ("output", "recipe", "resume", "part", "limit", "robustness", "method", "layer", "patch", "stride", "depth")
_KEYWORDS = {name.replace("_", "-"): name for name in (*FLAGS, *_OTHERS)} | {"class": "label", "channel": "channels"}
_KEYS = {"data": "data.path", **FLAGS}
_VALUES = (
    r"freeze|finetune|lp-ft|auto|scratch|train|val|test|cpu|cuda|mps|"
    r"gradcam|xgradcam|layercam|occlusion|feature-maps|deconv|guided|top-patches|filters|[A-Z]{3,}"
)
_COMMANDS = {
    "cnn-tl train DATA": 'cnn_tl.train("photos")',
    "cnn-tl models QUERY": 'cnn_tl.models("QUERY")',
    "cnn-tl explain RUN IMAGES...": "cnn_tl.explain(RUN, IMAGES)",
}


def with_keywords(function: Callable[P, R]) -> Callable[P, R]:
    """Let the errors of a function name keywords where the command line has flags."""

    @functools.wraps(function)
    def call(*args: P.args, **keywords: P.kwargs) -> R:
        try:
            return function(*args, **keywords)
        except CnnTlError as error:
            if error.args and isinstance(error.args[0], str):
                error.args = (rephrased(error.args[0]), *error.args[1:])
            raise

    return call


def rephrased(text: str) -> str:
    """Return a message in the words of a caller: keywords for flags, calls for commands, and no name twice."""
    for command, call in _COMMANDS.items():
        text = text.replace(command, call)
    text = re.sub(r"cnn-tl train --resume --output ('[^']*'|[^\s;,)]+)", _resumed, text)
    text = re.sub(r"--set (\w+)\.(\w+)=([\w.-]+)", r"\1={'\2': '\3'}", text)
    text = re.sub(rf"(?<![^\s('])--([a-z-]+)(?: ({_VALUES})\b(?!-))?", _keyword, text)
    return re.sub(r"^(\w+): ([\w.]+): ", _once, text)


def _resumed(found: re.Match[str]) -> str:
    return f"cnn_tl.train(output={shlex.split(found[1])[0]!r}, resume=True)"


def _keyword(found: re.Match[str]) -> str:
    flag, value = found.groups()
    if flag not in _KEYWORDS:
        return found[0]
    return f'{_KEYWORDS[flag]}="{value}"' if value else _KEYWORDS[flag]


def _once(found: re.Match[str]) -> str:
    name, key = found.groups()
    return f"{name}: " if _KEYS.get(name) == key else found[0]

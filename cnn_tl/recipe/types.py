"""The types of a recipe's settings: what YAML may hold for each, and the messages for anything else."""

from __future__ import annotations

import os
import re
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from cnn_tl.core.choices import FreezePolicy, TrackerName

Split = Literal["train", "val", "test"]
AugmentPolicy = Literal["none", "randaugment", "trivialaugment"]
BatchNorm = Literal["train", "eval", "sync"]
FREEZE_PATTERN = rf"^({'|'.join(get_args(FreezePolicy))}|last-[1-9][0-9]?)$"


def _path_text(value: object) -> str:
    """Accept a path as text; pydantic's own `str` refuses the undecodable bytes that file names may hold."""
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if isinstance(text, str) and text and "\0" not in text:
            return text
    raise PydanticCustomError("path", "Input should be a path as text")


def is_group_file(groups: str) -> bool:
    """Return whether `data.groups` is a CSV file, which only its name decides: no recipe depends on what exists."""
    return groups.casefold().endswith(".csv")


def _groups(value: object) -> str:
    text = _path_text(value)
    if text != "twins" and not is_group_file(text):
        try:
            re.compile(text)
        except (re.error, OverflowError, RecursionError) as error:
            raise PydanticCustomError(
                "groups",
                "Input should be twins, a CSV file, or a regular expression ({reason})",
                {"reason": str(error)},
            ) from error
    return text


def _views(value: object) -> int | str:
    if value == "fresh" or (type(value) is int and 1 <= value <= 1000):
        return value
    raise PydanticCustomError("views", "Input should be a whole number from 1 to 1000, or fresh")


def _policy(value: object) -> str | tuple[str, ...]:
    if isinstance(value, str) and re.fullmatch(FREEZE_PATTERN, value):
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(item, str) and item for item in value):
        return tuple(value)
    raise PydanticCustomError(
        "policy",
        f"Input should be {', '.join(get_args(FreezePolicy))}, last-N, or a list of names such as [layer4, '*.bn1']",
    )


def _policies(value: object) -> tuple[str | tuple[str, ...], ...]:
    if isinstance(value, list | tuple) and value:
        return tuple(_policy(item) for item in value)
    raise PydanticCustomError("policies", "Input should be a list of policies, such as [last-stage, all]")


def _learning_rate(value: object) -> float | str:
    if value == "auto":
        return "auto"
    if type(value) in (int, float) and 0 < value <= 100:  # type: ignore[operator]
        return float(value)  # type: ignore[arg-type]
    raise PydanticCustomError("learning_rate", "Input should be auto, or a number above 0 and up to 100")


def _trackers(value: object) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    known = get_args(TrackerName)
    if isinstance(names, list | tuple) and all(name in known for name in names):
        return tuple(name for name in known if name in names)
    listed = f"{', '.join(known[:-1])} and {known[-1]}"
    raise PydanticCustomError("trackers", f"Input should be a list of {listed}, or one of them")


def _class_weights(value: object) -> str | dict[str, float]:
    if value in ("none", "balanced"):
        return str(value)
    if isinstance(value, dict) and value and all(_is_weight(*item) for item in value.items()):
        return {name: float(weight) for name, weight in value.items()}
    raise PydanticCustomError(
        "class_weights", "Input should be none, balanced, or a weight above 0 for each class that is named"
    )


def _is_weight(name: object, weight: object) -> bool:
    return isinstance(name, str) and type(weight) in (int, float) and 0 < weight < 1e6  # type: ignore[operator]


Views = Annotated[int | Literal["fresh"], PlainValidator(_views, json_schema_input_type=int | Literal["fresh"])]
ClassWeights = Annotated[
    Literal["none", "balanced"] | dict[str, float],
    PlainValidator(_class_weights, json_schema_input_type=Literal["none", "balanced"] | dict[str, float]),
]
Policy = Annotated[
    str | tuple[str, ...],
    PlainValidator(_policy, json_schema_input_type=Annotated[str, Field(pattern=FREEZE_PATTERN)] | list[str]),
]
Policies = Annotated[
    tuple[str | tuple[str, ...], ...],
    PlainValidator(_policies, json_schema_input_type=list[str | list[str]]),
]
LearningRate = Annotated[
    float | Literal["auto"], PlainValidator(_learning_rate, json_schema_input_type=float | Literal["auto"])
]
Trackers = Annotated[
    tuple[TrackerName, ...],
    BeforeValidator(_trackers, json_schema_input_type=TrackerName | list[TrackerName]),
]
Groups = Annotated[str, PlainValidator(_groups, json_schema_input_type=str)]
PathText = Annotated[str, PlainValidator(_path_text, json_schema_input_type=str)]

"""Where the data lies: the folder of it all, and the folders of its splits where they are named one by one."""

from __future__ import annotations

import os
from pathlib import Path

from cnn_tl.core.errors import RecipeError
from cnn_tl.recipe.sections import Data

SPLITS = ("train", "val", "test")


def placed(data: Data) -> Data:
    """Return the section with the folders of the splits relative to `path`, which lies around all of them.

    A folder that is named is relative to `path`, or to the working directory where `path` is not set.

    Raises:
        RecipeError: a split is named, and train is not; or no folder lies around all of them.
    """
    given = {split: text for split in SPLITS if (text := getattr(data, split)) is not None}
    if not given:
        return data
    if "train" not in given:
        named = next(iter(given))
        raise RecipeError(f"data.{named} needs data.train beside it, the folder to learn from: --set data.train=FOLDER")
    places = {split: os.path.normpath(os.path.join(data.path or "", text)) for split, text in given.items()}  # noqa: PTH118
    around = data.path if data.path is not None else _around([*places.values()])
    if not all(_is_inside(place, around) for place in places.values()):
        around = _around([*places.values()])
    relative = {split: Path(os.path.relpath(place, around)).as_posix() for split, place in places.items()}
    return data.model_copy(update={"path": around, **relative})


def named_splits(data: Data) -> dict[str, str]:
    """Return the folders of the splits that are named, relative to `data.path`."""
    return {split: text for split in SPLITS if (text := getattr(data, split)) is not None}


def _around(places: list[str]) -> str:
    if len(places) == 1:
        return places[0] if places[0] == os.curdir else os.path.dirname(places[0]) or os.curdir  # noqa: PTH120
    try:
        if len({os.path.isabs(place) for place in places}) > 1:  # noqa: PTH117
            places = [os.path.abspath(place) for place in places]  # noqa: PTH100
        return os.path.commonpath(places) or os.curdir
    except ValueError as error:  # two drives of Windows
        raise RecipeError("data.train, data.val and data.test lie on different drives; put them on one") from error


def _is_inside(place: str, folder: str) -> bool:
    return Path(os.path.relpath(place, folder)).parts[:1] != (os.pardir,)

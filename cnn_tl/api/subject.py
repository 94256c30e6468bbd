"""The folder or run that a function examines, from its keywords."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.api.keywords import PathLike, is_recipe, path_text, recipe_of
from cnn_tl.core.errors import UsageError, printable

if TYPE_CHECKING:
    from cnn_tl.doctor.subject import Subject


def subject_of(source: PathLike, given: Mapping[str, Any], sections: Mapping[str, Any]) -> tuple[str, Subject]:
    """Return the name of a source, for people, and its data: those of a folder under a recipe, or of a run.

    Args:
        given, sections: as of `recipe_of`.

    Raises:
        UsageError: a keyword has an impossible value, or does not go with a run.
        And the errors of reading a recipe or a run.
    """
    from cnn_tl.doctor.subject import is_run, subject_of_data, subject_of_run

    if is_recipe(source):
        raise UsageError("source: got a recipe, allowed a data folder or a run")
    folder = Path(path_text(source, "source", "a data folder, a run folder, or the result of train"))
    if not is_run(folder):
        return printable(folder), subject_of_data(recipe_of(folder, None, given, sections))
    if given.keys() - {"device", "workers"} or sections:
        raise UsageError(f"{printable(folder)} is a run, which has its own recipe; name the data folder instead")
    return printable(folder), subject_of_run(folder, device=given.get("device"), workers=given.get("workers"))

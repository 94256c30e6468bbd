"""The folder or run that a command examines, from its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import UsageError, printable

if TYPE_CHECKING:
    from cnn_tl.doctor.subject import Subject


def subject_of(source: Path, recipe: str | None, changes: list[str], flags: Mapping[str, object]) -> Subject:
    """Return the data of a folder under a recipe, or those of a run under its own.

    Args:
        flags: key of the recipe -> what a flag says; None: not given.

    Raises:
        UsageError: a run was named and something else than where to run was asked for.
        And the errors of reading a recipe or a run.
    """
    from cnn_tl import recipe as recipes
    from cnn_tl.doctor.subject import is_run, subject_of_data, subject_of_run

    if is_run(source):
        if recipe or changes or any(value is not None for key, value in flags.items() if not key.startswith("run.")):
            raise UsageError(f"{printable(source)} is a run, which has its own recipe; name the data folder instead")
        device, workers = flags["run.device"], flags["run.workers"]
        return subject_of_run(source, device=cast("str | None", device), workers=cast("int | None", workers))
    for line in recipes.renamed(recipe, changes):
        console.note(line)
    chosen = recipes.load(recipe, [*changes, "mode=freeze"], {**flags, "data.path": str(source)})
    return subject_of_data(chosen)

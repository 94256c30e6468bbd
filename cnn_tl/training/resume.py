"""`train --resume`: find the run to resume, and its recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cnn_tl import recipe as recipes
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.core.formatting import counted
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.recipe.resolved import FreezeRecipe, LoopRecipe
from cnn_tl.training import run_index
from cnn_tl.training.run_folder import RunFolder


@dataclass(frozen=True)
class Resumable:
    """The run to resume.

    Attributes:
        output: its folder.
        recipe: the file with its recipe; None if it was stopped before it wrote one; the caller then gives all of it.
        notes: messages to the user about the choice.
    """

    output: Path
    recipe: Path | None
    notes: tuple[str, ...]


def find(
    output: Path | None, data: str | None, mode: str | None, epochs: int | None, *, several: bool = False
) -> Resumable:
    """Find the run to resume: the one in `output`, or the newest of this data and mode.

    Args:
        data, mode, epochs: as given by the caller; None if not given.
        several: whether several processes of a launch choose at the same time; see `run_index.to_resume`.

    Raises:
        ArtefactError: there is no such run, or its recipe has been changed.
        UsageError: the run has another mode, or counts steps instead of epochs; or it was stopped before it wrote its
            recipe and `data` is missing.
    """
    notes: tuple[str, ...] = ()
    if output is None:
        chosen = run_index.to_resume(data, mode, epochs, several=several)
        output, notes = chosen.path, chosen.notes
    run = RunFolder(output)
    if not run.never_began:
        run.require_run()
        _refuse_other_mode_or_unit(run, mode, epochs)
        return Resumable(output, run.recipe, notes)
    has_recipe = run.draft.is_file() and mode in (None, recipes.load(run.draft).mode)
    if not has_recipe and data is None:
        raise UsageError(
            f"{printable(run.path)} was stopped before it wrote its recipe; give the whole command again: "
            f"cnn-tl train DATA --output {printable(run.path)}"
        )
    notes = (*notes, f"{printable(run.path)} was stopped before it began; it starts from the beginning")
    return Resumable(output, run.draft if has_recipe else None, notes)


def note_without_effect(recipe: ResolvedRecipe, given: Mapping[str, object]) -> str | None:
    """Return a note on given settings without effect, as the head is fitted and not trained; None if there are none.

    Args:
        recipe: the resolved recipe.
        given: epochs and learning rate, by the caller's names for them; None: not given.
    """
    idle = [name for name, value in given.items() if value is not None]
    if not idle or not isinstance(recipe, FreezeRecipe) or recipe.head.kind == "adamw":
        return None
    have = "has" if len(idle) == 1 else "have"
    return f"{' and '.join(idle)} {have} no effect: the head ({recipe.head.kind}) is fitted, not trained"


def _refuse_other_mode_or_unit(run: RunFolder, mode: str | None, epochs: int | None) -> None:
    own = run.own_recipe()
    if mode not in (None, own.mode):
        raise UsageError(
            f"{printable(run.path)} is a run of mode {own.mode}, which cannot change; leave out --mode {mode}, "
            "or start another run with another --output"
        )
    if epochs is not None and isinstance(own, LoopRecipe) and own.train.length.unit == "steps":
        raise UsageError(
            f"{printable(run.path)} lasts {counted(own.train.length.count, 'step')}, not epochs; leave out --epochs, "
            "or make it longer with --set train.steps=MORE"
        )

"""Find the runs on this machine, wherever `--output` has put them, and those that can be resumed.

A run is known if it is in runs/ below the working directory, or if it was begun on this machine: each run writes a
small file to the cache, `<cache>/runs/<digest of its path>.json`, with its folder and the working directory. If these
files are lost, runs in runs/ are still found, and any run can be named by `--output`.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cnn_tl import recipe as recipes
from cnn_tl.cache.location import default_root
from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, CnnTlError, printable
from cnn_tl.core.formatting import counted
from cnn_tl.networks import bundle
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.run_folder import DRAFT, RunFolder

REMEMBERED = 200
"""Maximum number of recorded runs; the oldest records are removed."""

_NAMED = 3
"""Maximum number of runs that a message names."""


@dataclass(frozen=True)
class Chosen:
    """The run that `--resume` chooses if none is named, and messages to the user about the choice."""

    path: Path
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """A run, and why it cannot be resumed: "" if it can, "finished", or what is wrong with it."""

    run: RunFolder
    obstacle: str

    def __str__(self) -> str:
        return f"{printable(self.run.path)} ({self.obstacle})"


def remember(run: Path) -> None:
    """Record where a run is, so that `--resume` finds it; do nothing if the cache cannot be written."""
    with contextlib.suppress(CnnTlError, OSError):
        entry = _entry(run)
        files.write_json(entry, {"run": str(run.resolve()), "begun_in": str(Path.cwd())})
        for old in sorted(entry.parent.glob("*.json"), key=lambda path: path.stat().st_mtime)[:-REMEMBERED]:
            old.unlink(missing_ok=True)


def forget_if_gone(run: Path) -> None:
    """Remove the record of a run that was refused and has left no folder."""
    with contextlib.suppress(OSError):
        if not run.exists():
            _entry(run).unlink(missing_ok=True)


def _entry(run: Path) -> Path:
    name = hashlib.sha256(str(run.resolve()).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return default_root() / "runs" / f"{name}.json"


def to_resume(
    data: str | None = None, mode: str | None = None, epochs: int | None = None, *, several: bool = False
) -> Chosen:
    """Choose the newest run that can be resumed, of this data and mode if they are given.

    Only local runs count: those in runs/, below the working directory, or begun in it. If all have finished, the newest
    is chosen, and its result is shown again.

    Args:
        epochs: the length to train to; a finished run of fewer epochs can be resumed, a run of more cannot.
        several: several processes of a launch choose at the same time. They must choose alike, so only runs in runs/
            count, and locks are ignored.

    Raises:
        ArtefactError: there is none.
    """
    runs = _matching(_newest_first(_in_runs() if several else _local_runs()), data, mode)
    passed: list[_Found] = []
    for run in runs:
        found = _Found(run, _obstacle(run, epochs, check_locks=not several))
        if not found.obstacle:
            return Chosen(run.path, tuple(_notes(run.path, passed)))
        passed.append(found)
    finished = [found.run.path for found in passed if found.obstacle == "finished"]
    if finished:
        others = [found for found in passed if found.obstacle != "finished"]
        notes = [f"no run here is unfinished; the newest finished one is {printable(finished[0])}"]
        return Chosen(finished[0], tuple(notes + ([f"passed over: {_listed(others)}"] if others else [])))
    kind = "".join([f" of {printable(data)}" if data else "", f" in mode {mode}" if mode else ""])
    if len(passed) == 1:
        passed[0].run.require_run()  # raises a more detailed error
    if passed:
        raise ArtefactError(f"no run{kind} can be resumed here: {_listed(passed)}; name one with --output RUN")
    elsewhere = [] if several else [run for run in _newest_first(_remembered()) if not run.result.exists()]
    hint = f"; begun elsewhere and not finished: {elsewhere[0].resume_command}" if elsewhere else ""
    raise ArtefactError(f"there is no run{kind} to resume here; name it with --output RUN{hint}")


def stopped_twin(recipe: ResolvedRecipe) -> RunFolder | None:
    """Return the newest local run that was begun with the same recipe, was stopped, and can be resumed."""
    return next((run for run in _newest_first(_local_runs()) if is_stopped_twin(run, recipe)), None)


def is_stopped_twin(run: RunFolder, recipe: ResolvedRecipe) -> bool:
    """Return whether the run was begun with the same recipe, was stopped, and can be resumed."""
    if run.result.exists() or _obstacle(run):
        return False
    own = run.own_recipe()
    return not recipes.diff(own, recipe) and _same_folder(own.data.path, recipe.data.path)


def begun_by(launch: str, data: str | None, mode: str | None) -> Path | None:
    """Return the run in runs/ that the launch of this name began, or None."""
    runs = (run for run in map(RunFolder, _in_runs()) if run.belongs_to(launch))
    return next((run.path for run in _matching(runs, data, mode)), None)


def _notes(chosen: Path, passed: list[_Found]) -> Iterable[str]:
    yield f"resuming {printable(chosen)}, the newest run that can be resumed"
    if passed:
        yield f"passed over, though newer: {_listed(passed)}"


def _listed(found: list[_Found]) -> str:
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return ", ".join(map(str, found[:_NAMED])) + more


def _obstacle(run: RunFolder, epochs: int | None = None, *, check_locks: bool = True) -> str:
    """Return in a few words why a run cannot be resumed; "" if it can."""
    try:
        if not run.never_began:
            run.require_run()
        recipe = run.own_recipe()
        own = recipe.train.epochs if isinstance(recipe, LoopRecipe) else None
        if check_locks and run.is_held():
            return "another process is training it"
        if epochs is not None and own is not None and own > epochs:
            return f"it is to last {counted(own, 'epoch')}"
        if run.result.exists():
            return "" if epochs is not None and own is not None and own < epochs else "finished"
        if run.has_only_damaged_checkpoints():
            return "every checkpoint in it is damaged"
    except CnnTlError as error:
        return str(error).partition("; ")[0]
    return ""


def _local_runs() -> set[Path]:
    """Return the local run folders, relative to the working directory if they are below it."""
    try:
        place = Path.cwd()
    except OSError:
        return set()  # it was removed
    begun = _remembered()
    near = {run for run in begun if begun[run] == place or run.is_relative_to(place)}
    return _in_runs() | {run.relative_to(place) if run.is_relative_to(place) else run for run in near}


def _in_runs() -> set[Path]:
    return {path.parent for name in (bundle.RECIPE_OF_RUN, DRAFT) for path in Path("runs").glob(f"*/{name}")}


def _remembered() -> dict[Path, Path]:
    """Return the recorded run folders that still exist, and where each was begun."""
    found = {}
    for path in (default_root() / "runs").glob("*.json"):
        with contextlib.suppress(CnnTlError, OSError, KeyError, TypeError, ValueError):
            entry = files.read_json(path)
            if RunFolder(Path(entry["run"])).written_recipe.is_file():
                found[Path(entry["run"])] = Path(entry["begun_in"])
    return found


def _newest_first(runs: Iterable[Path]) -> list[RunFolder]:
    """Sort runs by when they were last started; one that vanishes in the meantime is left out."""
    dated = []
    for path in runs:
        run = RunFolder(path)
        with contextlib.suppress(OSError):
            dated.append((run.written_recipe.stat().st_mtime_ns, str(path), run))
    return [run for *_, run in sorted(dated, key=lambda item: item[:2], reverse=True)]


def _matching(runs: Iterable[RunFolder], data: str | None, mode: str | None) -> list[RunFolder]:
    """Return the runs of this data folder and mode; if there are none, those of a data folder of the same name."""
    if data is None and mode is None:
        return list(runs)
    kept, same_place = [], []
    for run in runs:
        try:
            own = run.own_recipe()
        except ArtefactError:
            kept.append(run)  # its data is unknown; it is skipped later, and reported as damaged
            continue
        if mode not in (None, own.mode):
            continue
        if data is None or _name(own.data.path) == _name(data):
            kept.append(run)
        if data is not None and _same_folder(own.data.path, data):
            same_place.append(run)
    return same_place or kept


def _same_folder(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and Path(one).resolve() == Path(other).resolve()


def _name(data: str | None) -> str:
    return Path(data).resolve().name if data is not None else ""

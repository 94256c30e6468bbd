"""The run folder: the files of a run. Data only, never code.

recipe.yaml       the resolved recipe
manifest.json     the images, their classes and splits
metrics.jsonl     one line per epoch
metrics.csv       the same as a table
curves.png        the same as a plot, if there were epochs
validation.jsonl  the prediction of the finished model for each validation image
report.html       the same and the images as one page, see reporting/
learning-curve.json   what more images would buy, if `cnn-tl learning-curve` was asked
result.json       the accuracy, and everything that is printed at the end
digests.json      digests of recipe.yaml, result.json and the weights, see checkpoints/digests.py
checkpoints/      the state from which the run resumes
model/            the bundle
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cnn_tl import recipe as recipes
from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, RecipeError, ResourceError, printable
from cnn_tl.core.locks import try_lock
from cnn_tl.networks import bundle
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.tracking.flat_rows import csv_text
from cnn_tl.training.checkpoints import digests

LOCK = ".lock"
LAUNCH = ".launch"
MANIFEST = "manifest.json"
DRAFT = ".begun.yaml"
"""The recipe of a run that has not yet written recipe.yaml, so that it can be started again."""


class RunFolder:
    """The paths of a run, its lock, and its small files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / bundle.RECIPE_OF_RUN
        self.manifest = path / MANIFEST
        self.metrics = path / "metrics.jsonl"
        self.metrics_table = path / "metrics.csv"
        self.curves = path / "curves.png"
        self.validation = path / "validation.jsonl"
        self.result = path / "result.json"
        self.report = path / "report.html"
        self.learning_curve = path / "learning-curve.json"
        self.checkpoints = path / "checkpoints"
        self.features = self.checkpoints / "features"
        self.bundle = path / "model"
        self.draft = path / DRAFT
        self._launch = path / LAUNCH

    def require_new(self) -> None:
        """Refuse a folder that is not empty.

        Raises:
            ResourceError: it holds a run or other files, or it is a file.
        """
        where = printable(self.path)
        if self.path.is_dir():
            if self.recipe.exists():
                raise ResourceError(
                    f"{where} holds another run; go on with it ({self.resume_command}), or choose another --output"
                )
            if any(not _is_leftover(path.name) for path in self.path.iterdir()):
                raise ResourceError(f"{where} is not empty and is no run of cnn-tl; choose another --output")
        elif self.path.exists():
            raise ResourceError(f"{where} is a file; choose another --output")

    @property
    def never_began(self) -> bool:
        """Whether a run was stopped here before it wrote recipe.yaml, so that it can only start over."""
        if self.recipe.exists() or not self.path.is_dir():
            return False
        names = [path.name for path in self.path.iterdir()]
        return bool(names) and all(map(_is_leftover, names))

    @property
    def written_recipe(self) -> Path:
        """The file that holds the recipe: recipe.yaml, or the draft until there is one."""
        return self.draft if self.never_began else self.recipe

    def require_run(self) -> None:
        """Refuse a folder that is not a run, or whose recipe has changed.

        Raises:
            ArtefactError: it is one of these.
        """
        if not self.recipe.is_file():
            raise ArtefactError(f"{printable(self.path)} is not a run folder, so there is nothing to resume")
        digests.check(
            self.recipe,
            "restore it, or begin another run from it: "
            f"cnn-tl train --recipe {shlex.quote(printable(self.recipe))} --output ANOTHER",
        )

    @property
    def resume_command(self) -> str:
        """The command that resumes this run."""
        return f"cnn-tl train --resume --output {shlex.quote(printable(self.path))}"

    def own_recipe(self) -> ResolvedRecipe:
        """Return the recipe with which the run began.

        Raises:
            ArtefactError: recipe.yaml is damaged.
        """
        try:
            return recipes.load(self.written_recipe)
        except RecipeError as error:
            raise ArtefactError(f"{error}; restore this run's recipe, or start again with another --output") from error

    def write_draft(self, recipe: ResolvedRecipe) -> None:
        """Write the recipe in case the run stops before it writes recipe.yaml; `--resume` then starts it again.

        Raises:
            ResourceError: the disk is full or not writable.
        """
        files.write_text(self.draft, recipes.to_yaml(recipe))

    def write_launch(self, launch: str) -> None:
        """Write the name of the launch that begins the run, so that a restart of that launch recognises its run.

        Args:
            launch: empty if it has no name.

        Raises:
            ResourceError: the disk is full or not writable.
        """
        if launch:
            files.write_text(self._launch, launch)
            return
        with files.disk_errors(self._launch):
            self._launch.unlink(missing_ok=True)  # left by a run that was killed before it began

    def belongs_to(self, launch: str) -> bool:
        """Return whether the folder holds a run that the launch of this name began."""
        try:
            return self.recipe.is_file() and self._launch.read_bytes() == launch.encode("utf-8", "surrogatepass")
        except OSError:
            return False

    def has_only_damaged_checkpoints(self) -> bool:
        """Return whether there are checkpoints, and all of them are damaged."""
        folders = sorted(self.checkpoints.glob("step-*"), reverse=True)
        for folder in folders:
            with contextlib.suppress(ArtefactError):
                files.verify_checksums(folder)
                return False
        return bool(folders)

    def is_held(self) -> bool:
        """Return whether another process is training in this folder."""
        try:
            stream = (self.path / LOCK).open("r+b")
        except OSError:
            return False  # no lock file yet, or not writable
        with stream:
            return try_lock(stream.fileno()) is False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder for this process; the lock of a process that dies is released by the system.

        Raises:
            ResourceError: another process trains in this folder.
        """
        first = not self.path.parent.exists()
        with files.disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            stream = (self.path / LOCK).open("a+b")
        with stream:
            if try_lock(stream.fileno()) is False:
                raise ResourceError(
                    f"another process is training in {printable(self.path)}; wait for it, or choose another --output"
                )
            try:
                yield
            finally:
                self._remove_if_unused(with_parent=first)

    @contextlib.contextmanager
    def outlives_a_full_disk(self) -> Iterator[None]:
        """If the disk is full, add the command that resumes the run to the error.

        Raises:
            ResourceError: it is full.
        """
        try:
            yield
        except (ResourceError, OSError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not (isinstance(cause, OSError) and cause.errno in files.NO_SPACE):
                raise
            what_now = f"once there is room, go on with: {self.resume_command}"
            if isinstance(error, OSError):
                where = printable(error.filename or self.path)
                raise ResourceError(f"no space is left to write {where}; {what_now}") from error
            error.args = (f"{error}; {what_now}",)  # the same object: other processes raise it too
            raise

    def _remove_if_unused(self, *, with_parent: bool) -> None:
        """Remove the folder if the run failed before it wrote recipe or results."""
        if {path.name for path in self.path.iterdir()} <= {LOCK, LAUNCH, DRAFT}:
            with contextlib.suppress(OSError):
                self._launch.unlink(missing_ok=True)
                self.draft.unlink(missing_ok=True)
                (self.path / LOCK).unlink()
                self.path.rmdir()
                if with_parent:
                    self.path.parent.rmdir()

    def write_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Replace metrics.jsonl and metrics.csv."""
        files.write_text(self.metrics, "".join(json.dumps(row) + "\n" for row in rows))
        files.write_text(self.metrics_table, csv_text(rows))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the rows of metrics.jsonl; none, if there is no such file.

        Raises:
            ArtefactError: it is damaged.
        """
        try:
            return [json.loads(line) for line in files.read_bytes(self.metrics).decode("utf-8").splitlines()]
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise ArtefactError(f"{printable(self.metrics)} is damaged: {error}") from error


def _is_leftover(name: str) -> bool:
    """Return whether the file may be from a run that was killed before it wrote recipe.yaml, which comes last."""
    is_temporary = name.startswith(".") and name.endswith(files.TEMPORARY_SUFFIX)
    return is_temporary or name in (LOCK, LAUNCH, DRAFT, MANIFEST, digests.DIGESTS)


def default_output(data: str, mode: str) -> Path:
    """Return the first of runs/DATA-MODE, runs/DATA-MODE-2, ... that is free."""
    first = Path("runs") / f"{Path(data).resolve().name or 'data'}-{mode}"
    numbered = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([first], numbered) if not path.exists())

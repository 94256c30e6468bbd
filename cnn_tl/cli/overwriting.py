"""Answers never take the place of what they were made from: the model, its run, a picture."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cnn_tl.data.kinds import has_picture_extension
from cnn_tl.errors import ArtefactError, UsageError, printable
from cnn_tl.files import CHECKSUMS
from cnn_tl.networks import bundle

OF_A_RUN = frozenset(
    {bundle.RECIPE_OF_RUN, "manifest.json", "metrics.jsonl", "metrics.csv", "validation.jsonl", "result.json"}
    | {"digests.json", "curves.png", "checkpoints", ".launch"}
)
"""What a run folder holds beside its model, as `RunFolder` has it, which the light install cannot import; any other
file in it is the user's own."""

OF_A_MODEL = frozenset({".onnx", ".pt2", ".pt", ".pth", ".safetensors"})
"""How the names of files end that hold networks."""


def require_harmless(output: Path, model: Path) -> None:
    """Refuse an output that is a part of a model, an export or a run, looks like a picture, or is no file.

    Raises:
        UsageError: it is.
    """
    where = f"--output {printable(output)}"
    if has_picture_extension(output):
        raise UsageError(f"{where} is a name for a picture; choose another one")
    if output.exists() and not output.is_file():
        raise UsageError(f"{where} is no file; without --output, stdout is used")
    if _is_of(output, model):
        raise UsageError(f"{where} would replace a part of the model {printable(model)}; choose another one")
    if output.suffix.lower() in OF_A_MODEL:
        raise UsageError(f"{where} is a name for a model; choose another one")
    if kept := _kept_by(output.resolve()):
        raise UsageError(f"{where} would replace a part of {printable(kept.name)}; choose another one")


def never(output: Path | None, pictures: Iterable[Path]) -> Iterator[Path]:
    """Yield the pictures.

    Raises:
        UsageError: one of them is the output.
    """
    if output is None or not output.exists():
        yield from pictures
        return
    own = _identity(output)
    for picture in pictures:
        if _identity(picture) == own:
            raise UsageError(f"--output {printable(output)} is one of the pictures; choose another one")
        yield picture


def _is_of(output: Path, model: Path) -> bool:
    if model.is_file():
        report = model.with_name(f"{model.name}.json")
        return output.exists() and any(_identity(output) == _identity(own) for own in (model, report))
    try:
        folder = bundle.find(model).resolve()
    except ArtefactError:
        return False  # which is told when it is loaded
    whole = output.resolve()
    run = bundle.run_of(folder)
    of_the_run = run is not None and any(whole.is_relative_to(run / name) for name in OF_A_RUN)
    return whole.is_relative_to(folder) or of_the_run


def _kept_by(output: Path) -> Path | None:
    """Return the run, the export or the bundle that an absolute path is a part of, whatever model answers."""
    for run in output.parents:
        of_the_run = any(output.is_relative_to(run / name) for name in OF_A_RUN | {bundle.FOLDER_IN_RUN})
        if of_the_run and (run / bundle.RECIPE_OF_RUN).is_file() and (run / "manifest.json").is_file():
            return run
    sealed = output.parent / CHECKSUMS
    if sealed.is_file() and output.exists():
        return output.parent
    export = output.with_suffix("")
    is_export = export.suffix.lower() in OF_A_MODEL or (export / CHECKSUMS).is_file()
    return export if output.suffix == ".json" and is_export and export.exists() else None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - a name too long for the system is simply no file here
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino

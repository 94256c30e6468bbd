"""Checks before writing: answers and plots never overwrite a model, a run or an image."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from cnn_tl.core.errors import ArtefactError, ResourceError, UsageError, printable
from cnn_tl.core.files import CHECKSUMS
from cnn_tl.data.decoding.file_types import has_image_extension
from cnn_tl.networks import bundle

OF_A_RUN = frozenset(
    {bundle.RECIPE_OF_RUN, "manifest.json", "metrics.jsonl", "metrics.csv", "validation.jsonl", "result.json"}
    | {"digests.json", "curves.png", "report.html", "learning-curve.json", "checkpoints", ".launch", ".begun.yaml"}
)
"""What a run folder holds beside its model; any other file in it is the user's. `RunFolder` has the same names, but
the light install (without torch) cannot import it."""

OF_A_MODEL = frozenset({".onnx", ".pt2", ".pt", ".pth", ".safetensors"})
"""Suffixes of files that hold networks."""


def require_harmless(output: Path, model: Path, option: str = "--output") -> None:
    """Refuse an output that belongs to a model, an export or a run, is named like an image, or is not a regular file.

    Raises:
        UsageError: the output is one of these.
    """
    where = f"{option} {printable(output)}"
    if has_image_extension(output):
        raise UsageError(f"{where} is named like an image; choose another name")
    if output.exists() and not output.is_file():
        hint = "without --output, answers go to stdout" if option == "--output" else "name the file"
        raise UsageError(f"{where} is not a regular file; {hint}")
    if _is_of(output, model):
        raise UsageError(f"{where} would overwrite part of the model {printable(model)}; choose another name")
    if output.suffix.lower() in OF_A_MODEL:
        raise UsageError(f"{where} is named like a model; choose another name")
    if kept := _owner_of(output.resolve()):
        raise UsageError(f"{where} would overwrite part of {printable(kept.name)}; choose another name")


def require_plot_place(output: Path, option: str = "--output") -> None:
    """Refuse a path where a plot cannot be written, or where it would overwrite another file, before any work is done.

    Raises:
        UsageError: the path is a folder, does not end in .png, or is a file that cnn-tl has not drawn.
        ResourceError: the folder is not writable.
    """
    where = f"{option} {printable(output)}"
    if output.is_dir():
        raise UsageError(f"{where} is a folder; name the file, as in {option} {printable(output / 'plot.png')}")
    if output.suffix.lower() != ".png":
        raise UsageError(f"{where}: the plot is a PNG; choose a name that ends in .png")
    require_writable(output, option)
    if os.path.lexists(output) and not _is_plot(output):
        raise UsageError(f"{where} exists and is not a plot of cnn-tl; remove it, or choose another name")


def require_writable(output: Path, option: str) -> None:
    """Refuse a file whose folder, or the nearest one above it that exists, is not writable.

    Raises:
        ResourceError: this is so.
    """
    there = next(folder for folder in output.absolute().parents if os.path.lexists(folder))
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        raise ResourceError(f"cannot write {printable(output)} into {printable(there)}; choose another {option}")


def _is_plot(path: Path) -> bool:
    from PIL import Image

    from cnn_tl.plots.figure import DRAWN_BY

    try:
        with path.open("rb") as stream, Image.open(stream, formats=["PNG"]) as image:
            return image.info.get("Software") == DRAWN_BY
    except (OSError, SyntaxError, ValueError):
        return False


def refuse_as_output(output: Path | None, images: Iterable[Path]) -> Iterator[Path]:
    """Yield the images unchanged.

    Raises:
        UsageError: one of them is the output file.
    """
    if output is None or not output.exists():
        yield from images
        return
    own = _identity(output)
    for image in images:
        if _identity(image) == own:
            raise UsageError(f"--output {printable(output)} is one of the images; choose another name")
        yield image


def _is_of(output: Path, model: Path) -> bool:
    if model.is_file():
        report = model.with_name(f"{model.name}.json")
        return output.exists() and any(_identity(output) == _identity(own) for own in (model, report))
    try:
        folder = bundle.find(model).resolve()
    except ArtefactError:
        return False  # loading the model will report it
    whole = output.resolve()
    run = bundle.run_of(folder)
    of_the_run = run is not None and any(whole.is_relative_to(run / name) for name in OF_A_RUN)
    return whole.is_relative_to(folder) or of_the_run


def _owner_of(output: Path) -> Path | None:
    """Return the run, export or bundle that an absolute path belongs to."""
    for run in output.parents:
        of_the_run = any(output.is_relative_to(run / name) for name in OF_A_RUN | {bundle.FOLDER_IN_RUN})
        if of_the_run and (run / bundle.RECIPE_OF_RUN).is_file() and (run / "manifest.json").is_file():
            return run
    if output.exists() and _is_checksummed(output):
        return output.parent
    export = output.with_suffix("")
    is_export = export.suffix.lower() in OF_A_MODEL or (export / CHECKSUMS).is_file()
    return export if output.suffix == ".json" and is_export and export.exists() else None


def _is_checksummed(path: Path) -> bool:
    """Say whether the checksum file beside a file lists it, or is the file itself."""
    try:
        named = (path.parent / CHECKSUMS).read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return path.name == CHECKSUMS or any(line.endswith(f"  {path.name}") for line in named)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - Path.stat would raise for a name that is too long
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino

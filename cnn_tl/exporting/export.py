"""Export a trained model, and prove that the export is the same model before the file gets its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cnn_tl import __version__, recipe
from cnn_tl.core import files
from cnn_tl.core.errors import DataError, UsageError, printable
from cnn_tl.core.imports import require_torch
from cnn_tl.core.progress import Observer
from cnn_tl.exporting import parity, precision_cost
from cnn_tl.exporting.comparison_images import manifest_of
from cnn_tl.exporting.formats import onnx, openvino, timm, torch  # these import torch inside functions
from cnn_tl.exporting.options import FormatOptions, Options, require_package
from cnn_tl.exporting.original import original
from cnn_tl.exporting.output import SUFFIXES, default_output, report_of, require_writable
from cnn_tl.exporting.parity import Agreement, Exported, Given
from cnn_tl.exporting.precision_cost import Cost, Lowered
from cnn_tl.networks import bundle
from cnn_tl.networks.bundle import Bundle, Stored
from cnn_tl.recipe.schema import Export

EXPORTERS: dict[str, Callable[[Any, Path, Options], Exported | Lowered]] = {
    "onnx": onnx.write,
    "openvino": openvino.write,
    "timm": timm.write,
    "torch": torch.write,
}
"""Format -> the function that writes a bundle to a path, and reads it back.

It takes a `Bundle`; one of `WITHOUT_TORCH` also a `Stored` with a graph.
"""

WITHOUT_TORCH = ("onnx", "openvino")
"""Formats that need no torch if the bundle has a graph."""


@dataclass(frozen=True, repr=False)
class ExportReport:
    """What was written, and how it compares with the original model.

    Attributes:
        path: the file, or the folder.
        format: a key of `EXPORTERS`.
        bytes, sha256: of the file; for a folder, the size of all its files and the digest of its SHA256SUMS.
        facts: the metadata of the file.
        images: what the models were compared on, in words.
        compared_with: what the original model ran in, in words.
        options: what was asked for.
        parity: the agreement for each kind of input and batch size.
        cost: of a precision below fp32.
    """

    path: Path
    format: str
    bytes: int
    sha256: str
    facts: Mapping[str, str]
    images: str
    compared_with: str
    options: Options
    parity: tuple[Agreement, ...]
    cost: Cost | None = None

    def __repr__(self) -> str:
        """Return such as `<ExportReport runs/a/model.onnx: onnx, 13.4 MB, same answer for 75 of 75 images>`."""
        same = f", {self.verdict}" if self.largest("prepared") else ""
        return f"<ExportReport {printable(self.path)}: {self.format}, {self.bytes / 1e6:.3g} MB{same}>"

    def largest(self, given: Given) -> Agreement | None:
        """Return the agreement on the most images given so, with the largest difference of all batch sizes."""
        found = [one for one in self.parity if one.given == given]
        if not found:
            return None
        most = max(found, key=lambda one: one.images)
        distances = [one.distance_difference for one in found if one.distance_difference is not None]
        largest = max(one.largest_difference for one in found)
        return replace(most, largest_difference=largest, distance_difference=max(distances, default=None))

    @property
    def verdict(self) -> str:
        """How many answers are equal, in one line."""
        found = self.largest("prepared")
        assert found is not None
        tied = f", {found.ties:,} tied" if found.ties else ""
        return f"same answer for {found.same:,} of {found.images:,} {self.images}{tied}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        values = {**asdict(self), "path": printable(self.path)}
        return values if self.cost is None else {**values, "cost": {**asdict(self.cost), "drop": self.cost.drop}}


def export(
    source: str | Path,
    output: str | Path | None = None,
    *,
    format: str = "onnx",
    options: Options | None = None,
    observer: Observer | None = None,
) -> ExportReport:
    """Export the model of a run folder or a bundle; the report, as JSON, goes beside the file.

    Args:
        output: the file or folder; None for one beside the bundle, named after it (RUN/model.onnx, RUN/model-timm).
        options: None: for ONNX, whole images in, probabilities and logits out. Bounds that are not set are those of the
            run's recipe.

    Raises:
        ArtefactError: there is no whole model at `source`; or its export differs from it, loses more accuracy than
            allowed, or keeps fewer answers. Then no file is left.
        DataError: the precision is below fp32, and the images that it needs are not here.
        ResourceError: `output` is another file than an earlier export, or cannot be written; a package is missing.
        UsageError: the format is unknown, or cannot do what is asked; or the model does not measure distances.
    """
    observer = observer or Observer()
    if format not in EXPORTERS:
        raise UsageError(f"there is no format {format!r}; choose {' or '.join(EXPORTERS)}")
    chosen = (options or Options()).of(format)
    require_package(format)
    folder = bundle.find(Path(source))
    bounds = Export()
    if chosen.precision != "fp32":
        _require_images(folder, chosen)
        bounds = chosen.bounds(_bounds(folder))
        chosen = replace(chosen, max_drop=bounds.max_drop, min_agreement=bounds.min_agreement)
    output = Path(output) if output is not None else default_output(folder, format)
    require_writable(output, format)
    with observer.task("loading the model", None):
        trained = _load(folder, format)
    if options is not None and "distance" in (options.outputs or ()) and trained.distance is None:
        raise UsageError(f"--outputs distance: {printable(folder)} does not measure distances; leave it out")
    place = files.atomic_path(output) if format in SUFFIXES else files.atomic_folder(output)
    # the report is complete before the export gets its name, and gets its own name right after
    with files.atomic_path(report_of(output)) as report_file, place as temporary:
        written = _write(trained, temporary, format, chosen, observer)
        size, sha256 = _size_and_digest(temporary)
        report = _prove(trained, written, Target(output, format, size, sha256, chosen, bounds), observer)
        with files.disk_errors(report_of(output)):
            about = {**report.to_dict(), "path": output.name, "cnn_tl": __version__}
            report_file.write_text(files.as_json(about), "utf-8")
    return report


@dataclass(frozen=True)
class Target:
    """A file or folder that was written, before it is proven: see `ExportReport`.

    Attributes:
        bounds: what a lower precision may cost.
    """

    path: Path
    format: str
    bytes: int
    sha256: str
    options: FormatOptions
    bounds: Export


def _load(folder: Path, format: str) -> Bundle | Stored:
    """Return the model as plain data where that is enough, so that torch is not imported; else as a timm model.

    Raises:
        ArtefactError: it is damaged.
        ResourceError: torch is needed, and not installed.
    """
    if format in WITHOUT_TORCH:
        stored = bundle.read(folder)
        if stored.graph is not None:
            return stored
        require_torch("a model without graph.onnx")
    else:
        require_torch(f"--format {format}")
    return bundle.load(folder)


def _write(
    trained: Bundle | Stored, path: Path, format: str, options: Options, observer: Observer
) -> Exported | Lowered:
    doing = f"writing {format}" if options.precision == "fp32" else f"writing {format} in {options.precision}"
    with observer.task(doing, None), files.disk_errors(path):
        return EXPORTERS[format](trained, path, options)


def _prove(trained: Bundle | Stored, written: Exported | Lowered, target: Target, observer: Observer) -> ExportReport:
    """Compare an export with the model, and measure what a lower precision costs.

    Raises:
        ArtefactError: the export differs, or costs more than allowed.
    """
    exported = written.export if isinstance(written, Lowered) else written
    paid = None
    if isinstance(written, Lowered):
        paid = precision_cost.measure(trained, written, target.bytes, observer)
        paid.require(target.bounds)
    model = original(trained)
    agreements, images = parity.compare(trained.path, model, exported, observer)
    if paid is None:
        parity.require(agreements, images)
    return ExportReport(
        path=target.path,
        format=target.format,
        bytes=target.bytes,
        sha256=target.sha256,
        facts=exported.facts,
        images=images,
        compared_with=model.name,
        options=target.options,
        parity=agreements,
        cost=paid,
    )


def _bounds(folder: Path) -> Export:
    """Return what an export may cost, from the recipe of the bundle's run; the defaults for a bundle alone."""
    run = bundle.run_of(folder)
    written = run / bundle.RECIPE_OF_RUN if run else None
    return recipe.load(written).export if written and written.is_file() else Export()


def _require_images(folder: Path, options: Options) -> None:
    """Fail early if a precision needs images and no manifest lists them.

    Raises:
        DataError: the bundle does not belong to a run.
    """
    if manifest_of(folder) is None:
        which = "training" if options.precision == "int8" else "validation"
        raise DataError(
            f"--precision {options.precision} needs the {which} images of {printable(folder)}, but there is no "
            "manifest.json beside it that lists them; export from the run folder"
        )


def _size_and_digest(path: Path) -> tuple[int, str]:
    """Return size and digest of a file; of a folder, those of its files and SHA256SUMS, which it writes."""
    if path.is_file():
        return path.stat().st_size, files.sha256_file(path)
    size = sum(file.stat().st_size for file in path.iterdir())
    files.write_checksums(path)
    return size, files.sha256_file(path / files.CHECKSUMS)

"""Export a trained model and prove, before the file takes its name, that it is the same model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cnn_tl import __version__, recipe
from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, DataError, ResourceError, UsageError, printable
from cnn_tl.core.progress import Observer
from cnn_tl.exporting import cost, parity
from cnn_tl.exporting.cost import Cost, Lowered
from cnn_tl.exporting.formats import onnx, openvino, timm, torch
from cnn_tl.exporting.options import Options, require_package
from cnn_tl.exporting.parity import Agreement, Exported, Given
from cnn_tl.networks import bundle, onnx_model
from cnn_tl.networks.bundle import Bundle
from cnn_tl.recipe.sections import Export

EXPORTERS: dict[str, Callable[[Bundle, Path, Options], Exported | Lowered]] = {
    "onnx": onnx.write,
    "openvino": openvino.write,
    "timm": timm.write,
    "torch": torch.write,
}
"""Format -> the function that writes a bundle to a path as asked, and reads it back."""

ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
"""Format -> how its file's name ends; any other format is a folder, BUNDLE-FORMAT."""


@dataclass(frozen=True, repr=False)
class ExportReport:
    """What was written and how it compares with the torch model.

    Attributes:
        path: the file, or the folder.
        format: a key of `EXPORTERS`.
        bytes, sha256: of the file; of a folder the size of all its files, and the digest of its SHA256SUMS.
        facts: what the file says about itself.
        images: the kind of images that the models were compared on, in words.
        options: what was asked for.
        parity: the agreement for each kind of image at each batch size.
        cost: what a precision below fp32 costs and brings.
    """

    path: Path
    format: str
    bytes: int
    sha256: str
    facts: Mapping[str, str]
    images: str
    options: Options
    parity: tuple[Agreement, ...]
    cost: Cost | None = None

    def __repr__(self) -> str:
        """Return such as `<ExportReport runs/a/model.onnx: onnx, 13.4 MB, same answer for 75 of 75 images>`."""
        same = f", {self.verdict}" if self.largest("prepared") else ""
        return f"<ExportReport {printable(self.path)}: {self.format}, {self.bytes / 1e6:.3g} MB{same}>"

    def largest(self, given: Given) -> Agreement | None:
        """Return the agreement on the most images that were given so, with the largest difference of all batches."""
        found = [one for one in self.parity if one.given == given]
        if not found:
            return None
        most = max(found, key=lambda one: one.images)
        return replace(most, largest_difference=max(one.largest_difference for one in found))

    @property
    def verdict(self) -> str:
        """How many answers are the same, in one line."""
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
    """Export the model of a run folder or a bundle; its report, as JSON, lies beside the file.

    Args:
        output: the file or folder; None for one beside the bundle, named after it (RUN/model.onnx, RUN/model-timm).
        options: what it takes and gives; None: for ONNX whole images in, probabilities and logits out. Bounds that
            it does not set are those of the run's recipe.

    Raises:
        ArtefactError: there is no whole model at `source`, its export is another model, or loses more accuracy than
            is allowed, or keeps fewer answers; no file is left.
        DataError: a precision below fp32, and the images that it needs are not here.
        ResourceError: `output` is another file than an earlier export, or cannot be written; a package is missing.
        UsageError: unknown format, or one that cannot be what is asked for.
    """
    observer = observer or Observer()
    if format not in EXPORTERS:
        raise UsageError(f"there is no format {format!r}; choose {' or '.join(EXPORTERS)}")
    options = (options or Options()).of(format)
    require_package(format)
    folder = bundle.find(Path(source))
    if options.precision != "fp32":
        _require_images(folder, options)
        options = options.within(_bounds(folder))
    output = Path(output) if output is not None else _beside(folder, format)
    _require_replaceable(output, format)
    _require_name(output, format)
    with observer.task("loading the model", None):
        trained = bundle.load(folder)
    place = files.atomic_path(output) if format in ENDINGS else files.atomic_folder(output)
    # the report is whole before the export takes its name, and takes its own right after
    with files.atomic_path(_report_of(output)) as told, place as temporary:
        doing = f"writing {format}" if options.precision == "fp32" else f"writing {format} in {options.precision}"
        with observer.task(doing, None), files.disk_errors(output):
            written = EXPORTERS[format](trained, temporary, options)
        size, sha256 = _sealed(temporary)
        paid = None
        if isinstance(written, Lowered):
            paid = cost.measure(trained, written, size, observer)
            paid.require(options)
        exported = written.export if isinstance(written, Lowered) else written
        agreements, images = parity.compare(trained, exported, observer)
        if paid is None:
            parity.require(agreements, images)
        report = ExportReport(
            path=output,
            format=format,
            bytes=size,
            sha256=sha256,
            facts=exported.facts,
            images=images,
            options=options,
            parity=agreements,
            cost=paid,
        )
        with files.disk_errors(_report_of(output)):
            told.write_text(files.as_json({**report.to_dict(), "path": output.name, "cnn_tl": __version__}), "utf-8")
    return report


def _bounds(folder: Path) -> Export:
    """Return what the recipe of a bundle's run lets an export cost; a lone bundle has the defaults."""
    run = bundle.run_of(folder)
    written = run / bundle.RECIPE_OF_RUN if run else None
    return recipe.load(written).export if written and written.is_file() else Export()


def _require_images(folder: Path, options: Options) -> None:
    """Refuse at once what needs images, where nobody knows which they were.

    Raises:
        DataError: the bundle lies in no run.
    """
    if parity.manifest_of(folder) is None:
        which = "training" if options.precision == "int8" else "validation"
        raise DataError(
            f"--precision {options.precision} needs the {which} images of {printable(folder)}, and there is no "
            "manifest.json beside it that names them; export from the run folder"
        )


def _beside(folder: Path, format: str) -> Path:
    if not folder.name:  # "."
        folder = folder.resolve()
    return folder.parent / f"{folder.name}{ENDINGS.get(format, f'-{format}')}"


def _report_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _sealed(path: Path) -> tuple[int, str]:
    """Return size and digest of a file; of a folder the size of its files, and its checksums' digest."""
    if path.is_file():
        return path.stat().st_size, files.sha256_file(path)
    size = sum(file.stat().st_size for file in path.iterdir())
    files.write_checksums(path)
    return size, files.sha256_file(path / files.CHECKSUMS)


def _require_name(path: Path, format: str) -> None:
    """Refuse a name by which nobody would know what the file is: `predict` and others go by its end.

    Raises:
        UsageError: it has another end.
    """
    ending = ENDINGS.get(format)
    if ending is not None and path.suffix.lower() != ending:
        named = printable(path.with_name(f"{path.name or 'model'}{ending}"))
        raise UsageError(f"--output {printable(path)}: the name of such a file ends in {ending}; try {named}")


def _require_replaceable(path: Path, format: str) -> None:
    """Refuse to write over anything but a whole earlier export: its report or the file itself tells."""
    where, kind, other = printable(path), *(("file", "folder") if format in ENDINGS else ("folder", "file"))
    if not path.exists():
        _require_own_report(_report_of(path))
        return
    if path.is_dir() == (kind == "file"):
        raise ResourceError(f"{where} is a {other}; name a {kind} as --output")
    unchanged = _is_unchanged_file(path) if kind == "file" else _is_unchanged_folder(path)
    if not unchanged:
        raise ResourceError(f"{where} is no unchanged export of cnn-tl; remove it, or name another --output")
    _require_own_report(_report_of(path))


def _require_own_report(path: Path) -> None:
    """Refuse to write over anything but a report in the place where this one's goes."""
    if not path.exists():
        return
    try:
        report = files.read_json(path)
    except ArtefactError:
        report = None
    if not (isinstance(report, dict) and {"sha256", "parity", "cnn_tl"} <= report.keys()):
        raise ResourceError(
            f"{printable(path)}, where the report goes, is no report of cnn-tl; remove it, or name another --output"
        )


def _is_unchanged_file(path: Path) -> bool:
    if files.sha256_file(path) == _known_digest(path):
        return True
    try:
        onnx_model.OnnxModel.open(path)
    except ArtefactError:
        return False
    return True


def _is_unchanged_folder(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    if not names:
        return True
    try:
        files.verify_checksums(folder, required=names - {files.CHECKSUMS})
    except ArtefactError:
        return False
    return files.sha256_file(folder / files.CHECKSUMS) == _known_digest(folder)


def _known_digest(path: Path) -> str | None:
    """Return the digest that the report beside an export has; None if there is none."""
    try:
        return str(files.read_json(_report_of(path))["sha256"])
    except (ArtefactError, KeyError, TypeError):
        return None

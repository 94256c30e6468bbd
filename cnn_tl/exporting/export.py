"""Export a trained model and prove, before the file takes its name, that it is the same model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cnn_tl import __version__, files
from cnn_tl.errors import ArtefactError, ResourceError, UsageError, printable
from cnn_tl.exporting import onnx, parity
from cnn_tl.exporting.options import Options
from cnn_tl.exporting.parity import Exported
from cnn_tl.networks import bundle, onnx_model
from cnn_tl.networks.bundle import Bundle
from cnn_tl.progress import Observer

EXPORTERS: dict[str, Callable[[Bundle, Path, Options], Exported]] = {"onnx": onnx.write}
"""Format, which is also the suffix -> the function that writes a bundle to a path as asked, and reads it back."""


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it compares with the torch model.

    Attributes:
        path: the file.
        format: a key of `EXPORTERS`.
        bytes, sha256: of the file.
        facts: what the file says about itself.
        pictures: what the models were compared on, in words.
        options: what was asked for.
        parity: the agreement for each kind of picture at each batch size.
    """

    path: Path
    format: str
    bytes: int
    sha256: str
    facts: Mapping[str, str]
    pictures: str
    options: Options
    parity: tuple[parity.Agreement, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**asdict(self), "path": printable(self.path)}


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
        output: the file; None for one beside the bundle, named after it (RUN/model.onnx).
        options: what the graph takes and gives; None: whole pictures in, probabilities and logits out.

    Raises:
        ArtefactError: there is no whole model at `source`, or its export is another model; no file is left.
        ResourceError: `output` is another file than an earlier export, or cannot be written.
        UsageError: unknown format.
    """
    observer, options = observer or Observer(), options or Options()
    if format not in EXPORTERS:
        raise UsageError(f"there is no format {format!r}; choose {' or '.join(EXPORTERS)}")
    folder = bundle.find(Path(source))
    output = Path(output) if output is not None else _beside(folder, format)
    _require_replaceable(output)
    with observer.task("loading the model", None):
        trained = bundle.load(folder)
    with files.atomic_path(output) as temporary:
        with observer.task(f"writing {format}", None):
            written = EXPORTERS[format](trained, temporary, options)
        agreements, pictures = parity.compare(trained, written, observer)
        parity.require(agreements, pictures)
        report = ExportReport(
            path=output,
            format=format,
            bytes=temporary.stat().st_size,
            sha256=files.sha256_file(temporary),
            facts=written.facts,
            pictures=pictures,
            options=options,
            parity=agreements,
        )
    files.write_json(_report_of(output), {**report.to_dict(), "path": output.name, "cnn_tl": __version__})
    return report


def _beside(folder: Path, format: str) -> Path:
    if not folder.name:  # "."
        folder = folder.resolve()
    return folder.parent / f"{folder.name}.{format}"


def _report_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _is_ours(path: Path) -> bool:
    try:
        onnx_model.OnnxModel.open(path)
    except ArtefactError:
        return False
    return True


def _require_replaceable(path: Path) -> None:
    """Refuse to write over anything but a whole earlier export: its report or the file itself tells."""
    where = printable(path)
    if path.is_dir():
        raise ResourceError(f"{where} is a folder; name a file as --output")
    if not path.exists():
        return
    try:
        known = files.read_json(_report_of(path))["sha256"]
    except (ArtefactError, KeyError, TypeError):
        known = None
    if files.sha256_file(path) != known and not _is_ours(path):
        raise ResourceError(f"{where} is no unchanged export of cnn-tl; remove it, or name another --output")

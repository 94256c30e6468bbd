"""Where an export goes: its default path, its report beside it, and what may be replaced."""

from __future__ import annotations

from pathlib import Path

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, ResourceError, UsageError, printable
from cnn_tl.networks import onnx_model

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
"""Format -> suffix of its file; any other format is a folder, BUNDLE-FORMAT."""


def default_output(folder: Path, format: str) -> Path:
    """Return the path beside a bundle, named after it: RUN/model.onnx, RUN/model-timm."""
    if not folder.name:  # "."
        folder = folder.resolve()
    return folder.parent / f"{folder.name}{SUFFIXES.get(format, f'-{format}')}"


def report_of(path: Path) -> Path:
    """Return the path of the report beside an export."""
    return path.with_name(f"{path.name}.json")


def require_writable(path: Path, format: str) -> None:
    """Refuse an output that would replace anything but an earlier export, or has the wrong suffix.

    Raises:
        ResourceError: it would replace another file.
        UsageError: the suffix is not that of the format.
    """
    _require_replaceable(path, format)
    _require_suffix(path, format)


def _require_suffix(path: Path, format: str) -> None:
    """Refuse another suffix than that of the format, by which `predict` and other programs know the file.

    Raises:
        UsageError: the suffix is another one.
    """
    suffix = SUFFIXES.get(format)
    if suffix is not None and path.suffix.lower() != suffix:
        named = printable(path.with_name(f"{path.name or 'model'}{suffix}"))
        raise UsageError(f"--output {printable(path)}: a file of this format ends in {suffix}; try {named}")


def _require_replaceable(path: Path, format: str) -> None:
    """Refuse to replace anything but an unchanged earlier export, which its report or the file itself identifies."""
    where, kind, other = printable(path), *(("file", "folder") if format in SUFFIXES else ("folder", "file"))
    if not path.exists():
        _require_own_report(report_of(path))
        return
    if path.is_dir() == (kind == "file"):
        raise ResourceError(f"{where} is a {other}; choose a {kind} as --output")
    unchanged = _is_unchanged_file(path) if kind == "file" else _is_unchanged_folder(path)
    if not unchanged:
        raise ResourceError(f"{where} is not an unchanged export of cnn-tl; remove it, or choose another --output")
    _require_own_report(report_of(path))


def _require_own_report(path: Path) -> None:
    """Refuse to replace anything but a report where the new report goes."""
    if not path.exists():
        return
    try:
        report = files.read_json(path)
    except ArtefactError:
        report = None
    if not (isinstance(report, dict) and {"sha256", "parity", "cnn_tl"} <= report.keys()):
        raise ResourceError(
            f"{printable(path)}, the place of the report, is not one of cnn-tl; remove it, or choose another --output"
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
    """Return the digest of an export from the report beside it; None if there is none."""
    try:
        return str(files.read_json(report_of(path))["sha256"])
    except (ArtefactError, KeyError, TypeError):
        return None

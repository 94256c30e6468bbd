"""Where a page may be written: never over a file that cnn-tl has not written as a page."""

from __future__ import annotations

import os
from pathlib import Path

from cnn_tl.core.errors import UsageError, printable
from cnn_tl.core.files import CHECKSUMS
from cnn_tl.inference.safe_output import require_writable

_MARK = b'<meta name="generator" content="cnn-tl">'
"""What stands in the head of every page (`pages/templates/base.html`)."""

_HEAD_BYTES = 2000
_SUFFIXES = (".html", ".htm")


def require_page_place(output: Path, option: str = "--output") -> None:
    """Refuse a path where a page cannot be written, or where it would overwrite another file, before any work is done.

    Raises:
        UsageError: the path is a folder, does not end in .html, lies in a model, or is a file but no page of cnn-tl.
        ResourceError: the folder is not writable.
    """
    where = f"{option} {printable(output)}"
    if output.is_dir():
        raise UsageError(f"{where} is a folder; name the file, as in {option} {printable(output / 'report.html')}")
    if output.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"{where}: the page is HTML; choose a name that ends in .html")
    if (output.parent / CHECKSUMS).is_file():
        raise UsageError(f"{where} lies in a model, whose files are listed; choose another folder")
    require_writable(output, option)
    if os.path.lexists(output) and not is_page(output):
        raise UsageError(f"{where} exists and is not a page of cnn-tl; remove it, or choose another name")


def is_page(path: Path) -> bool:
    """Return whether a file is a page that cnn-tl has written."""
    if not path.is_file():  # opening a pipe would wait for its writer
        return False
    try:
        with path.open("rb") as stream:
            return _MARK in stream.read(_HEAD_BYTES)
    except OSError:
        return False

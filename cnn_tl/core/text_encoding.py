"""File names and texts are UTF-8 whatever the locale; texts from Windows editors are read as well.

A name that is not valid UTF-8 keeps its bytes: Python represents them as lone surrogates (PEP 383), and they are
printed escaped.
"""

from __future__ import annotations

import codecs
import os
import sys
from pathlib import Path

UTF8_BOM = codecs.BOM_UTF8
UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def restart_in_utf8() -> None:
    """Restart this program in Python's UTF-8 mode if the locale decodes file names differently.

    Without UTF-8 mode, a locale such as C or latin-1 would determine how the name of a class folder is decoded, and so
    the name of the class in the model. The process keeps its id, arguments and open files. Programs, not libraries,
    call this, and before anything else, since it replaces the process.
    """
    if _is_utf8(sys.getfilesystemencoding()) or not sys.executable:
        return
    os.environ["PYTHONUTF8"] = "1"  # for child processes
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def portable(name: str) -> str:
    """Return a file name with its bytes decoded as UTF-8: the same on every machine and in every locale."""
    if _is_utf8(sys.getfilesystemencoding()):
        return name
    exact = name.encode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
    return exact.decode("utf-8", "surrogateescape")


def native(name: str) -> str:
    """Return a portable name in the form in which this process can open the file."""
    if _is_utf8(sys.getfilesystemencoding()):
        return name
    exact = name.encode("utf-8", "surrogateescape")
    return exact.decode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def read_text(path: Path, most: int) -> str:
    """Return the text of a file that a person wrote: UTF-8 with or without a byte order mark, or UTF-16 with one.

    Args:
        path: the file.
        most: the number of characters to read; for a longer text, the result is longer than this, but not all of it.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it has another encoding.
    """
    limit = 4 * (most + 2)  # at most four bytes per character, and a byte order mark
    with path.open("rb") as stream:
        data = stream.read(limit)
    decoder = codecs.getincrementaldecoder("utf-16" if data.startswith(UTF16_BOMS) else "utf-8-sig")()
    return decoder.decode(data, final=len(data) < limit)


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "utf-8"

"""Names and texts are UTF-8 whatever the locale says; texts that Windows editors saved are read too.

A name that is not UTF-8 keeps its bytes: Python holds them as lone surrogates (PEP 383), and we print them escaped.
"""

from __future__ import annotations

import codecs
import os
import sys
from pathlib import Path

UTF8_BOM = codecs.BOM_UTF8
UTF16_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def restart_in_utf8() -> None:
    """Start this program again in Python's UTF-8 mode where the locale decodes names in another way.

    Without UTF-8 mode, a locale such as C or latin-1 decides how the bytes of a class folder's name are read, and so
    what the class is called in the model. The process keeps its id, its arguments and its open files. For programs:
    it replaces the process, so it comes before anything else.
    """
    if _is_utf8(sys.getfilesystemencoding()) or not sys.executable:
        return
    os.environ["PYTHONUTF8"] = "1"  # for child processes
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def portable(name: str) -> str:
    """Return a name of the file system as UTF-8 reads its bytes: the same on every machine and in every locale."""
    if _is_utf8(sys.getfilesystemencoding()):
        return name
    exact = name.encode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())
    return exact.decode("utf-8", "surrogateescape")


def native(name: str) -> str:
    """Return a portable name as this process must spell it to open the file."""
    if _is_utf8(sys.getfilesystemencoding()):
        return name
    exact = name.encode("utf-8", "surrogateescape")
    return exact.decode(sys.getfilesystemencoding(), sys.getfilesystemencodeerrors())


def read_text(path: Path, most: int) -> str:
    """Return the text of a file that a person wrote: UTF-8 with or without a byte order mark, or UTF-16 with one.

    Args:
        path: the file.
        most: characters; of a longer text a beginning is returned that is longer than this.

    Raises:
        OSError: it cannot be read.
        UnicodeDecodeError: it is in another encoding.
    """
    limit = 4 * (most + 2)  # a character has at most four bytes, and there may be a mark
    with path.open("rb") as stream:
        data = stream.read(limit)
    decoder = codecs.getincrementaldecoder("utf-16" if data.startswith(UTF16_BOMS) else "utf-8-sig")()
    return decoder.decode(data, final=len(data) < limit)


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name == "utf-8"

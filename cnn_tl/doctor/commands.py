"""The command that trains on data as corrected, as a doctor's page and a review print it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection
from pathlib import Path

from cnn_tl.core.errors import printable
from cnn_tl.doctor.decisions import EXCLUDE, RELABEL

_PLAIN = re.compile(r"[\w./~+-]+")


def train_command(data: Path, folder: Path, files: Collection[str] = (EXCLUDE, RELABEL)) -> list[str]:
    """Return the words, quoted for the shell, of the command that trains on the data as corrected.

    Args:
        folder: that of a doctor. files: which of the two lists are in it.
    """
    words = ["cnn-tl", "train", shlex.quote(printable(data))]
    for key, name in (("exclude", EXCLUDE), ("relabel", RELABEL)):
        if name in files:
            words += ["--set", shlex.quote(f"data.{key}={_as_yaml(str(folder / name))}")]
    return words


def _as_yaml(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=not text.isprintable())

"""Digests of the weights, recipe and result of a run, so that a file that was changed later is not used.

    digests.json   {"weights": {"file": sha256, "backbone": sha256},
                    "recipe.yaml": [sha256, ...], "result.json": [sha256]}

Two files cannot be replaced in one step. So the digest of a new text is added first, next to the digest of the old
text; then the text is written; then the old digest is removed. After a kill at any moment the digest of the text is
there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.networks.info import Remembered

DIGESTS = "digests.json"
_WEIGHTS = "weights"


def exist_in(folder: Path) -> bool:
    """Return whether the run folder has digests; earlier versions wrote none."""
    return (folder / DIGESTS).exists()


def write(path: Path, text: str, *, weights: Mapping[str, str] | None = None) -> None:
    """Write a file of a run folder, and its digest.

    Args:
        weights: digests of the weights with which the run begins, to be written too.

    Raises:
        ArtefactError: digests.json is damaged.
        ResourceError: the disk is full or not writable.
    """
    digests = path.parent / DIGESTS
    known = _read(path.parent) | ({_WEIGHTS: dict(weights)} if weights else {})
    new = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    old = files.sha256_file(path) if path.is_file() else new
    files.write_json(digests, known | {path.name: sorted({old, new})})
    files.write_text(path, text)
    if old != new:
        files.write_json(digests, known | {path.name: [new]})


def check(path: Path, what_now: str) -> None:
    """Refuse a file of a run folder that has changed since the run wrote it.

    Args:
        what_now: advice to the user, for the end of the message.

    Raises:
        ArtefactError: it has changed; or digests.json is damaged.
    """
    if not exist_in(path.parent):
        return
    try:
        found = files.sha256_file(path)
    except OSError as error:
        raise ArtefactError(f"{printable(path)} cannot be read: {error.strerror}") from error
    if found not in _read(path.parent).get(path.name, ()):
        raise ArtefactError(f"{printable(path)} has changed since the run wrote it; {what_now}")


def weights_digests(remembered: Remembered) -> dict[str, str]:
    """Return digests of the weights of a run: of their file, if there is one, and of the backbone.

    A match of either is enough. A file may be rewritten with the same backbone in it; and the position embeddings of a
    transformer, resized to another image size from the same file, differ in the last bits between processors.
    """
    source = remembered.source
    file = {"file": files.sha256_file(source)} if source else {}
    return {"backbone": remembered.info.backbone_sha256, **file}


def check_weights(folder: Path, now: Mapping[str, str], name: str) -> None:
    """Refuse weights that have changed since the run began.

    Args:
        now: see `weights_digests`.
        name: the weights in words, for the message.

    Raises:
        ArtefactError: they differ; or digests.json is damaged.
    """
    began = _read(folder).get(_WEIGHTS)
    if began and not any(began.get(kind) == sha256 for kind, sha256 in now.items()):
        raise ArtefactError(
            f"the {printable(name)} have changed since {printable(folder)} was begun (sha256 of the backbone: "
            f"{began['backbone'][:12]} then, {now['backbone'][:12]} now); restore the old ones, or start again with "
            "another --output"
        )


def _read(folder: Path) -> dict[str, Any]:
    if not exist_in(folder):
        return {}
    known: dict[str, Any] = files.read_json(folder / DIGESTS)
    if not (isinstance(known, dict) and all(_makes_sense(name, value) for name, value in known.items())):
        where = printable(folder / DIGESTS)
        raise ArtefactError(f"{where} is damaged; restore it, or start again with another --output")
    return known


def _makes_sense(name: str, value: object) -> bool:
    """Return whether this is a possible entry of digests.json."""
    if name == _WEIGHTS:
        return isinstance(value, dict) and isinstance(value.get("backbone"), str)
    return isinstance(value, list) and all(isinstance(digest, str) for digest in value)

"""Where the cache is, and which files in it belong to it.

    <root>/features/<space>/space.json                    what the rows of the space have in common, for people
    <root>/features/<space>/<time>-<token>.safetensors    a shard of rows
    <root>/pictures/<space>/...                           the same for decoded images
    <root>/networks/<request>/...                         a remembered network (cnn_tl/networks/info.py)

Files with other names are neither counted nor removed, in case somebody points the cache at a folder that holds other
things.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from pathlib import Path

FEATURES = "features"
IMAGES = "pictures"  # the name in existing caches
NETWORKS = "networks"
SPACE_INFO = "space.json"

_SHARD = re.compile(r"[0-9]{20}-[0-9a-f]{8}\.safetensors")
_SPACE = re.compile(r"[0-9a-f]{64}")
_NETWORK = re.compile(r"[0-9a-f]{32}")
_LEFTOVER = re.compile(r"\..+\.tmp|\.tmp\w+")  # those of core/files.py and of safetensors


def default_root() -> Path:
    """Return the folder of the cache: $CNN_TL_CACHE, else $XDG_CACHE_HOME/cnn-tl, else ~/.cache/cnn-tl.

    If the home folder is unknown (a container whose user has no entry), it counts as `/`, as in most such containers;
    that is not writable, and the cache reports it. A shared temporary folder would be unsafe: others could add rows.
    """
    if chosen := os.environ.get("CNN_TL_CACHE"):
        return Path(os.path.abspath(os.path.expanduser(chosen)))  # noqa: PTH100, PTH111 - pathlib's raises without a home
    shared = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(shared):  # noqa: PTH117 - the XDG specification says to ignore a relative path
        return Path(shared) / "cnn-tl"
    try:
        home = Path.home()
    except RuntimeError:
        home = Path(os.sep)
    return home / ".cache" / "cnn-tl"


def new_shard(space: Path) -> Path:
    """Return a new, unique shard name; names sort by the time of writing."""
    return space / f"{time.time_ns():020d}-{secrets.token_hex(4)}.safetensors"


def shards_in(space: Path) -> list[os.DirEntry[str]]:
    """Return the shards in the folder of a space, oldest first."""
    found = [entry for entry in _entries(space) if _SHARD.fullmatch(entry.name) and _is_file(entry)]
    return sorted(found, key=lambda entry: entry.name)


def spaces_in(root: Path) -> list[Path]:
    """Return the folders of the spaces."""
    return _folders(root / FEATURES, _SPACE) + _folders(root / IMAGES, _SPACE)


def networks_in(root: Path) -> list[Path]:
    """Return the folders of remembered networks."""
    return _folders(root / NETWORKS, _NETWORK)


def leftovers_in(folder: Path) -> list[Path]:
    """Return temporary files in a folder, of killed writers or being written right now."""
    return sorted(Path(e.path) for e in _entries(folder) if _LEFTOVER.fullmatch(e.name) and not e.is_symlink())


def _folders(folder: Path, name: re.Pattern[str]) -> list[Path]:
    found = (e for e in _entries(folder) if name.fullmatch(e.name) and e.is_dir(follow_symlinks=False))
    return sorted(Path(entry.path) for entry in found)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """Return the contents of a folder; none if it does not exist or cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file(follow_symlinks=False)
    except OSError:
        return False

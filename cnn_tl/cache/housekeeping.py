"""Showing what the cache holds, emptying it, and shrinking it: `cnn-tl cache`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_tl.cache import shard
from cnn_tl.cache.inventory import Entry, entries, remove, tidy
from cnn_tl.cache.location import SPACE_INFO
from cnn_tl.core import files
from cnn_tl.core.errors import CnnTlError


@dataclass(frozen=True)
class SpaceInfo:
    """Rows that were computed in one way.

    Attributes:
        name: the space's folder. facts: what the rows have in common; empty if that cannot be read.
        shape, dtype: of a row. rows: how many. nbytes: on disk. used: last, in seconds since 1970.
    """

    name: str
    facts: dict[str, Any]
    shape: tuple[int, ...]
    dtype: str
    rows: int
    nbytes: int
    used: float


@dataclass(frozen=True)
class RememberedNetwork:
    """A remembered network.

    Attributes:
        name: its folder. model: timm's name, "?" if that cannot be read.
        nbytes: on disk. used: last, in seconds since 1970.
    """

    name: str
    model: str
    nbytes: int
    used: float


@dataclass(frozen=True)
class CacheInfo:
    """What the cache holds, the most recently used first.

    Attributes:
        root: its folder, which may not exist.
        nbytes: the total. leftover_nbytes: temporary files, of killed writers or being written right now.
    """

    root: Path
    nbytes: int
    leftover_nbytes: int
    spaces: tuple[SpaceInfo, ...]
    networks: tuple[RememberedNetwork, ...]


def info(root: Path) -> CacheInfo:
    """Return what the cache in `root` holds, without reading any rows."""
    held = entries(root)
    spaces: dict[Path, list[Entry]] = {}
    for entry in held:
        if entry.kind == "shard":
            spaces.setdefault(entry.path.parent, []).append(entry)
    networks = [_network(entry) for entry in held if entry.kind == "network"]
    return CacheInfo(
        root,
        sum(entry.nbytes for entry in held),
        sum(entry.nbytes for entry in held if entry.kind == "leftover"),
        tuple(sorted((_space(folder, shards) for folder, shards in spaces.items()), key=_last_used)),
        tuple(sorted(networks, key=_last_used)),
    )


def clear(root: Path) -> int:
    """Remove every entry of the cache; return the bytes freed."""
    freed = sum(remove(entry) for entry in entries(root))
    tidy(root)
    return freed


def prune(root: Path, max_bytes: int) -> int:
    """Remove the least recently used entries until the rest is at most `max_bytes`; return the bytes freed.

    Leftovers of killed writers are removed first; files that may still be being written stay.
    """
    held = entries(root)
    surplus = sum(entry.nbytes for entry in held) - max_bytes
    freed = sum(remove(entry) for entry in held if entry.kind == "leftover" and entry.is_old)
    for entry in sorted(held, key=lambda entry: entry.used):
        if freed >= surplus:
            break
        if entry.kind != "leftover":
            freed += remove(entry)
    tidy(root)
    return freed


def _space(folder: Path, shards: list[Entry]) -> SpaceInfo:
    description = _json_object(folder / SPACE_INFO)
    facts, shape = description.get("facts"), description.get("shape")
    return SpaceInfo(
        folder.name,
        facts if isinstance(facts, dict) else {},
        tuple(shape) if isinstance(shape, list) else (),
        str(description.get("dtype", "?")),
        sum(shard.count(entry.path) for entry in shards),
        sum(entry.nbytes for entry in shards),
        max(entry.used for entry in shards),
    )


def _network(entry: Entry) -> RememberedNetwork:
    card = _json_object(entry.path / "card.json").get("card")
    model = card.get("architecture", "?") if isinstance(card, dict) else _model_of_measurements(entry.path)
    return RememberedNetwork(entry.path.name, str(model), entry.nbytes, entry.used)


def _model_of_measurements(folder: Path) -> object:
    """Return the model of a folder that holds only measurements of its speed in training."""
    return next((_json_object(file).get("model", "?") for file in folder.glob("loop-*.json")), "?")


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = files.read_json(path)
    except CnnTlError:
        return {}
    return value if isinstance(value, dict) else {}


def _last_used(info: SpaceInfo | RememberedNetwork) -> tuple[float, str]:
    """Sort the most recently used first."""
    return -info.used, info.name

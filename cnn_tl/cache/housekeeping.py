"""What the cache holds, emptying it, and making it smaller."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_tl.cache import shard
from cnn_tl.cache.inventory import Piece, pieces, remove, tidy
from cnn_tl.cache.location import CARD
from cnn_tl.core import files
from cnn_tl.core.errors import CnnTlError


@dataclass(frozen=True)
class SpaceInfo:
    """Rows that were computed in one way.

    Attributes:
        name: the space's folder. facts: what the rows have in common; empty where that cannot be read.
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
class NetworkInfo:
    """A remembered network.

    Attributes:
        name: its folder. model: timm's name, "?" where that cannot be read.
        nbytes: on disk. used: last, in seconds since 1970.
    """

    name: str
    model: str
    nbytes: int
    used: float


@dataclass(frozen=True)
class CacheInfo:
    """What the cache holds, the last used first.

    Attributes:
        root: its folder, which need not exist.
        nbytes: all of it. leftover_nbytes: temporary files in it, of killed writers or of one that writes now.
    """

    root: Path
    nbytes: int
    leftover_nbytes: int
    spaces: tuple[SpaceInfo, ...]
    networks: tuple[NetworkInfo, ...]


def info(root: Path) -> CacheInfo:
    """Return what the cache in `root` holds; no row is read."""
    held = pieces(root)
    spaces: dict[Path, list[Piece]] = {}
    for piece in held:
        if piece.kind == "shard":
            spaces.setdefault(piece.path.parent, []).append(piece)
    networks = [_network(piece) for piece in held if piece.kind == "network"]
    return CacheInfo(
        root,
        sum(piece.nbytes for piece in held),
        sum(piece.nbytes for piece in held if piece.kind == "leftover"),
        tuple(sorted((_space(folder, shards) for folder, shards in spaces.items()), key=_last_used)),
        tuple(sorted(networks, key=_last_used)),
    )


def clear(root: Path) -> int:
    """Remove everything that is ours; return the bytes that this freed."""
    freed = sum(remove(piece) for piece in pieces(root))
    tidy(root)
    return freed


def prune(root: Path, max_bytes: int) -> int:
    """Remove what was not used for the longest time until the rest is at most `max_bytes`; return the bytes freed.

    Leftovers of killed writers go first; what may be in the making stays.
    """
    held = pieces(root)
    surplus = sum(piece.nbytes for piece in held) - max_bytes
    freed = sum(remove(piece) for piece in held if piece.kind == "leftover" and piece.is_old)
    for piece in sorted(held, key=lambda piece: piece.used):
        if freed >= surplus:
            break
        if piece.kind != "leftover":
            freed += remove(piece)
    tidy(root)
    return freed


def _space(folder: Path, shards: list[Piece]) -> SpaceInfo:
    card = _json_object(folder / CARD)
    facts, shape = card.get("facts"), card.get("shape")
    return SpaceInfo(
        folder.name,
        facts if isinstance(facts, dict) else {},
        tuple(shape) if isinstance(shape, list) else (),
        str(card.get("dtype", "?")),
        sum(shard.count(piece.path) for piece in shards),
        sum(piece.nbytes for piece in shards),
        max(piece.used for piece in shards),
    )


def _network(piece: Piece) -> NetworkInfo:
    card = _json_object(piece.path / "card.json").get("card")
    model = card.get("architecture", "?") if isinstance(card, dict) else _timed(piece.path)
    return NetworkInfo(piece.path.name, str(model), piece.nbytes, piece.used)


def _timed(folder: Path) -> object:
    """Return the model of which nothing but its speed in a loop is known."""
    return next((_json_object(file).get("model", "?") for file in folder.glob("loop-*.json")), "?")


def _json_object(path: Path) -> dict[str, Any]:
    try:
        value = files.read_json(path)
    except CnnTlError:
        return {}
    return value if isinstance(value, dict) else {}


def _last_used(info: SpaceInfo | NetworkInfo) -> tuple[float, str]:
    """Sort the last used first."""
    return -info.used, info.name

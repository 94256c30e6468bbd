"""What the tests of the cache share: keys, rows, and a cache that collects what it says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_tl.cache.space import Space
from cnn_tl.cache.store import FeatureCache


def key_of(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def row_of(name: object, width: int = 8) -> Any:
    """Return the one true row of a name: whoever computes it gets the same."""
    seed = int.from_bytes(key_of(name)[:8], "big")
    return np.random.default_rng(seed).standard_normal(width).astype(np.float32)


@dataclass
class Desk:
    """A cache, and what it has said."""

    root: Path
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def open(self, budget_bytes: int | None = None) -> FeatureCache:
        """Open the cache again, as another process would."""
        return FeatureCache(self.root, budget_bytes=budget_bytes, warn=self.warnings.append, note=self.notes.append)

    def space(self, facts: object = "plain", *, width: int = 8, budget_bytes: int | None = None) -> Space:
        return self.open(budget_bytes).space({"facts": facts}, shape=(width,))

    def shards(self) -> list[Path]:
        return sorted(self.root.glob("features/*/*.safetensors"))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "cache")


@pytest.fixture
def fill() -> Callable[..., list[bytes]]:
    """Write the rows of some names into a space; return their keys."""

    def write(space: Space, names: Sequence[object], width: int = 8) -> list[bytes]:
        with space.writer() as writer:
            for name in names:
                assert writer.add(key_of(name), row_of(name, width))
        return [key_of(name) for name in names]

    return write


@pytest.fixture
def key() -> Callable[[object], bytes]:
    return key_of


@pytest.fixture
def row() -> Callable[..., Any]:
    return row_of


@pytest.fixture
def true_rows() -> Callable[..., Any]:
    """Return the rows [N, width] of some names."""
    return lambda names, width=8: np.stack([row_of(name, width) for name in names])

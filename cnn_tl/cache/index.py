"""Which key is where: the index of a space, in 16 bytes a row, so that millions of rows cost little memory and time.

Of a key of 32 bytes only a mark of 8 is kept. Two keys with the same mark are as good as never met (one chance in 10^7
for a million rows looked up among a million), and then the digest of the row, which covers the whole key, tells them
apart: the row is taken for a damaged one and computed again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]

NOWHERE = -1

KEY_BYTES = 32

# odd numbers without a pattern; so keys that differ in a few bytes only, which no SHA-256 does, have other marks too
_MIXING = np.array(
    [0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93], dtype=np.uint64
)  # fmt: skip


class PlaceIndex:
    """Finds the place of a key; places are whatever numbers, from 0, the caller gives them."""

    def __init__(self) -> None:
        self._marks: NDArray[np.uint64] = np.empty(0, np.uint64)  # sorted, each once
        self._places: Places = np.empty(0, np.int64)
        self._fresh: list[tuple[NDArray[np.uint64], Places]] = []

    def __len__(self) -> int:
        self._merge()
        return int(np.count_nonzero(self._places != NOWHERE))

    def put(self, keys: Bytes, first: int) -> None:
        """Place keys uint8 [N, 32] at `first`, `first` + 1, ...; a key that is known already moves there."""
        self._fresh.append((_marks_of(keys), np.arange(first, first + len(keys))))

    def find(self, keys: Sequence[bytes]) -> Places:
        """Return the places of keys [N], `NOWHERE` for one that has none."""
        self._merge()
        if not len(self._marks) or not len(keys):
            return np.full(len(keys), NOWHERE)
        marks = _marks_of(as_array(keys))
        at = np.minimum(np.searchsorted(self._marks, marks), len(self._marks) - 1)
        return np.where(self._marks[at] == marks, self._places[at], NOWHERE)

    def forget(self, places: Places | range) -> None:
        """Let the keys at these places have none."""
        self._merge()
        if isinstance(places, range):
            self._places[(self._places >= places.start) & (self._places < places.stop)] = NOWHERE
        else:
            self._places[np.isin(self._places, places)] = NOWHERE

    def _merge(self) -> None:
        if not self._fresh:
            return
        marks = np.concatenate([self._marks, *(marks for marks, _ in self._fresh)])
        places = np.concatenate([self._places, *(places for _, places in self._fresh)])
        order = np.argsort(marks, kind="stable")
        marks, places = marks[order], places[order]
        last_of_its_kind = np.append(marks[1:] != marks[:-1], True)
        self._marks, self._places = marks[last_of_its_kind], places[last_of_its_kind]
        self._fresh = []


def as_array(keys: Sequence[bytes]) -> Bytes:
    """Return N times 32 bytes as uint8 [N, 32]."""
    return np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), KEY_BYTES)


def as_keys(array: Bytes) -> list[bytes]:
    """Return uint8 [N, 32] as N times 32 bytes."""
    data = array.tobytes()
    return [data[start : start + KEY_BYTES] for start in range(0, len(data), KEY_BYTES)]


def _marks_of(keys: Bytes) -> NDArray[np.uint64]:
    words = np.ascontiguousarray(keys).view("<u8").astype(np.uint64, copy=False)
    mixed = words * _MIXING  # modulo 2^64
    mixed ^= mixed >> np.uint64(32)
    marks: NDArray[np.uint64] = (mixed * _MIXING[::-1]).sum(axis=1, dtype=np.uint64)
    return marks

from __future__ import annotations

import numpy as np
import pytest

from cnn_tl.cache.shard import ABSENT, RowIndex, as_array, as_keys

KEYS = {
    "of SHA-256": as_keys(np.random.default_rng(0).integers(0, 256, (3000, 32), dtype=np.uint8)),
    "counted at the end": [number.to_bytes(32, "big") for number in range(3000)],
    "counted at the start": [number.to_bytes(32, "little") for number in range(3000)],
    "one bit each": [(1 << bit).to_bytes(32, "big") for bit in range(256)],
    "one byte, many times": [bytes([number]) * 32 for number in range(256)],
}


@pytest.mark.parametrize("kind", KEYS)
def test_like_a_dictionary(kind: str) -> None:
    keys = KEYS[kind]
    chance = np.random.default_rng(1)
    index, truth, first = RowIndex(), {}, 0
    for _ in range(30):
        some = [keys[number] for number in chance.permutation(len(keys))[: chance.integers(1, len(keys) // 10)]]
        index.put(as_array(some), first)
        truth |= {key: first + number for number, key in enumerate(some)}
        first += len(some)
        if chance.random() < 0.5:
            asked = [keys[number] for number in chance.integers(0, len(keys), 40)]
            assert index.find(asked).tolist() == [truth.get(key, ABSENT) for key in asked]
            index.forget(np.array([truth.get(key, ABSENT) for key in asked[:3]]))
            for key in asked[:3]:
                truth.pop(key, None)
    index.forget(range(10, 40))
    truth = {key: number for key, number in truth.items() if not 10 <= number < 40}
    assert index.find(keys).tolist() == [truth.get(key, ABSENT) for key in keys]
    assert len(index) == len(truth)


def test_empty() -> None:
    index = RowIndex()
    assert index.find([b"x" * 32]).tolist() == [ABSENT]
    assert index.find([]).tolist() == []
    index.forget(range(3))
    index.put(as_array([b"x" * 32]), 0)
    assert index.find([]).tolist() == []
    assert len(index) == 1


def test_keys_and_arrays() -> None:
    keys = KEYS["of SHA-256"][:5]
    assert as_keys(as_array(keys)) == keys
    assert as_keys(as_array([])) == []

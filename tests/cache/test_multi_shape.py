from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cnn_tl.cache import writer as writer_module
from cnn_tl.cache.multi_shape import MemoryBudget, MultiShapeSpace

Key = Callable[[object], bytes]
Row = Callable[..., Any]
WIDTHS = (4, 8)


def width_of(name: int) -> int:
    return WIDTHS[name % 2]


@pytest.fixture
def open_spaces(desk: Any) -> Callable[..., MultiShapeSpace]:
    """Open the two spaces again, as another process would."""

    def make(memory: int = 0, budget_bytes: int | None = None) -> MultiShapeSpace:
        cache = desk.open(budget_bytes)
        return MultiShapeSpace(
            [cache.space({"width": width}, shape=(width,)) for width in WIDTHS], MemoryBudget(memory)
        )

    return make


@pytest.fixture
def put(key: Key, row: Row) -> Callable[..., None]:
    def write(open_spaces: MultiShapeSpace, names: range) -> None:
        with open_spaces.writer() as add:
            for name in names:
                add(key(name), row(name, width_of(name)))

    return write


@pytest.fixture
def has(key: Key, row: Row) -> Callable[..., bool]:
    def check(open_spaces: MultiShapeSpace, names: range) -> bool:
        return all(
            (found := open_spaces.fetch(key(name))) is not None and np.array_equal(found, row(name, width_of(name)))
            for name in names
        )

    return check


def damage(desk: Any) -> None:
    """Flip a bit of the first row of each shard."""
    for path in desk.shards():
        content = bytearray(path.read_bytes())
        content[8 + int.from_bytes(content[:8], "little")] ^= 1
        path.write_bytes(content)


def test_rows_of_two_shapes(open_spaces: Any, put: Any, has: Any, key: Key, desk: Any) -> None:
    one = open_spaces()
    assert one.missing([key(name) for name in range(50)]) == {key(name) for name in range(50)}
    put(one, range(50))
    assert has(one, range(50))
    other = open_spaces()
    assert other.missing([key(name) for name in range(60)]) == {key(name) for name in range(50, 60)}
    assert has(other, range(50))
    assert other.fetch(key(55)) is None
    assert desk.warnings + desk.notes == []


def test_many_threads_fetch(open_spaces: Any, put: Any, has: Any, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "SHARD_ROWS", 7)
    put(open_spaces(), range(200))
    one = open_spaces()
    one.missing([key(name) for name in range(200)])
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda start: has(one, range(start, 200, 8)), range(8)))


def test_many_threads_find_the_damage_once(open_spaces: Any, put: Any, key: Key, desk: Any) -> None:
    put(open_spaces(), range(40))
    damage(desk)
    one = open_spaces()
    assert one.missing([key(name) for name in range(40)]) == set(), "the index does not know yet"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: one.fetch(key(name % 40)), range(160)))
    assert sum(row is None for row in found) == 2 * 4, "the first row of each of the two shards"
    assert len(desk.warnings) == 2


def test_damaged_rows_are_replaced(open_spaces: Any, put: Any, has: Any, key: Key, row: Row, desk: Any) -> None:
    names = range(10)
    put(open_spaces(), names)
    damage(desk)
    one = open_spaces(memory=1000)
    one.missing([key(name) for name in names])
    for name in names:
        if one.fetch(key(name)) is None:
            one.hold(key(name), row(name, width_of(name)))
    assert [name for name in names if one.holds(key(name))] == [0, 1]
    one.write_held()
    assert not any(one.holds(key(name)) for name in names)
    assert has(one, names)
    other = open_spaces()
    assert other.missing([key(name) for name in names]) == set()
    assert has(other, names)
    assert len(desk.warnings) == 2


def test_memory_holds_what_the_cache_refuses_and_no_more(
    open_spaces: Any, put: Any, has: Any, key: Key, monkeypatch: pytest.MonkeyPatch, desk: Any
) -> None:
    monkeypatch.setattr(writer_module, "SHARD_ROWS", 5)
    one = open_spaces(memory=10 * 16 + 10 * 32, budget_bytes=1)
    put(one, range(100))
    said = len(desk.notes)
    assert 1 <= said <= 2, "each of the writers that are open"
    held = [name for name in range(100) if one.holds(key(name))]
    lost = one.missing([key(name) for name in range(100)])
    assert sum(4 * width_of(name) for name in held) <= 480
    assert len(held) >= 20
    assert 100 - len(held) - len(lost) <= 2 * 5, "a shard for each of the writers stays with its space"
    assert has(one, [name for name in range(100) if key(name) not in lost])  # type: ignore[arg-type]
    one.write_held()
    assert [name for name in range(100) if one.holds(key(name))] == held
    assert len(desk.notes) == said


def test_a_row_is_held_once(key: Key, row: Row) -> None:
    one = MultiShapeSpace([], MemoryBudget(40))
    for _ in range(3):
        one.hold(key(1), row(1))
    one.hold(key(2), row(2))
    assert one.holds(key(1))
    assert not one.holds(key(2))
    assert not MultiShapeSpace([], MemoryBudget(0)).holds(key(1))

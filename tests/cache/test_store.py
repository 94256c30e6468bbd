from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnn_tl.cache import space as space_module
from cnn_tl.cache import writer as writer_module

NAMES = range(50)

Fill = Callable[..., list[bytes]]
Key = Callable[[object], bytes]
Row = Callable[..., Any]


def test_round_trip(desk: Any, fill: Fill, true_rows: Row) -> None:
    space = desk.space()
    assert not desk.root.exists()
    keys = fill(space, NAMES)
    for reader in (space, desk.space()):
        assert reader.missing(keys) == []
        rows, lacking = reader.gather(keys)
        assert lacking == []
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, true_rows(NAMES))
        assert len(reader) == 50
    assert desk.warnings + desk.notes == []


def test_any_order_and_often(desk: Any, fill: Fill, key: Key, row: Row) -> None:
    fill(desk.space(), range(20))
    space = desk.space()
    fill(space, range(20, 50))  # a second shard
    names = [*np.random.default_rng(0).integers(0, 50, 200).tolist(), "absent", 3, 3]
    rows, lacking = space.gather([key(name) for name in names])
    assert lacking == [200]
    assert space.missing([key(name) for name in names]) == [200]
    np.testing.assert_array_equal(rows[200], 0)
    for index, name in enumerate(names):
        if name != "absent":
            np.testing.assert_array_equal(rows[index], row(name))


def test_large_reads_come_in_pieces(desk: Any, fill: Fill, true_rows: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space_module, "READ_BYTES", 3 * 32)
    space = desk.space()
    rows, lacking = space.gather(fill(space, NAMES))
    np.testing.assert_array_equal(rows, true_rows(NAMES))
    assert lacking == []


def test_into_an_array_of_ones_own(desk: Any, fill: Fill, key: Key, true_rows: Row) -> None:
    space = desk.space()
    keys = fill(space, NAMES)
    whole = np.full((2, 52, 8), 7, np.float32)
    rows, lacking = space.gather([key("absent"), *keys], whole[1, :51])
    assert np.shares_memory(rows, whole)
    assert lacking == [0]
    np.testing.assert_array_equal(whole[1, 1:51], true_rows(NAMES))
    assert (whole[0] == 7).all()
    assert (whole[1, [0, 51]] == 7).all()


def test_one_row(desk: Any, fill: Fill, key: Key, row: Row) -> None:
    space = desk.space()
    fill(space, NAMES)
    np.testing.assert_array_equal(space.read(key(7)), row(7))
    assert space.read(key("absent")) is None
    assert key(7) in space
    assert key("absent") not in space


def test_nothing_is_asked(desk: Any) -> None:
    space = desk.space()
    rows, lacking = space.gather([])
    assert (rows.shape, lacking, space.missing([])) == ((0, 8), [], [])
    with space.writer():
        pass
    assert not desk.root.exists()


@pytest.mark.parametrize(
    "other",
    [
        {"facts": {"weights": "b", "size": 224}}, {"facts": {"weights": "a", "size": 225}},
        {"facts": {"weights": "a"}}, {"shape": (4, 2)}, {"dtype": "float16"},
    ],
    ids=str,
)  # fmt: skip
def test_whatever_differs_misses(desk: Any, key: Key, other: dict[str, Any]) -> None:
    ours: dict[str, Any] = {"facts": {"weights": "a", "size": 224}, "shape": (8,), "dtype": "float32"}
    with desk.open().space(**ours).writer() as writer:
        writer.add(key(0), np.ones(8, np.float32))
    assert desk.open().space(**ours | other).missing([key(0)]) == [0]
    turned = {"size": 224, "weights": "a"}  # the order is nothing that differs
    assert desk.open().space(**ours | {"facts": turned}).missing([key(0)]) == []


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "uint8"])
@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (1,)])
def test_types_and_shapes(desk: Any, key: Key, dtype: str, shape: tuple[int, ...]) -> None:
    kept = "uint16" if dtype == "bfloat16" else dtype
    rows = np.random.default_rng(0).integers(0, 200, (9, *shape)).astype(kept)
    with desk.open().space({}, shape=shape, dtype=dtype).writer() as writer:
        for name, row in enumerate(rows):
            writer.add(key(name), row)
    space = desk.open().space({}, shape=shape, dtype=dtype)
    found, lacking = space.gather([key(name) for name in range(9)])
    assert (found.dtype, found.shape, lacking) == (np.dtype(kept), rows.shape, [])
    np.testing.assert_array_equal(found, rows)


def test_any_bits_survive(desk: Any, key: Key) -> None:
    row = np.array([np.nan, np.inf, -0.0, 1e-45, 0, 0, 0, 0], np.float32)
    with desk.space().writer() as writer:
        writer.add(key(0), row)
    assert desk.space().read(key(0)).tobytes() == row.tobytes()


def test_any_key_will_do(desk: Any, row: Row) -> None:
    keys = [bytes(32), bytes(31) + b"\1", b"\1" + bytes(31), b"\xff" * 32]
    with desk.space().writer() as writer:
        for key in keys:
            writer.add(key, row(key))
    rows, lacking = desk.space().gather(keys)
    assert lacking == []
    np.testing.assert_array_equal(rows, np.stack([row(key) for key in keys]))


def test_the_row_is_copied(desk: Any, key: Key) -> None:
    space, row = desk.space(), np.ones(8, np.float32)
    with space.writer() as writer:
        writer.add(key(0), row)
        row[:] = 2
    assert (space.read(key(0)) == 1).all()


def test_a_row_is_written_once(desk: Any, fill: Fill) -> None:
    fill(desk.space(), [1, 2, 1, 2])
    fill(desk.space(), [1, 2])
    assert len(desk.shards()) == 1


def test_an_exception_keeps_what_was_computed(desk: Any, key: Key, row: Row) -> None:
    def interrupted() -> None:
        with desk.space().writer() as writer:
            writer.add(key(0), row(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    np.testing.assert_array_equal(desk.space().read(key(0)), row(0))


def test_an_interrupt_of_the_write_itself(desk: Any, key: Key, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnn_tl.cache import shard

    write, interrupts = shard.write, [KeyboardInterrupt()]

    def interrupted(*arguments: Any) -> None:
        if interrupts:
            raise interrupts.pop()
        write(*arguments)

    monkeypatch.setattr(shard, "write", interrupted)

    def work() -> None:
        with desk.space().writer() as writer:
            writer.add(key(0), row(0))
            writer.flush()

    with pytest.raises(KeyboardInterrupt):
        work()
    np.testing.assert_array_equal(desk.space().read(key(0)), row(0))


@pytest.mark.parametrize(
    ("limit", "value", "shards"), [("SHARD_ROWS", 10, 5), ("SHARD_BYTES", 10 * 32, 5), ("SHARD_SECONDS", -1, 50)]
)
def test_shards_are_bounded(
    desk: Any, fill: Fill, true_rows: Row, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, shards: int
) -> None:
    monkeypatch.setattr(writer_module, limit, value)
    keys = fill(desk.space(), NAMES)
    assert len(desk.shards()) == shards
    np.testing.assert_array_equal(desk.space().gather(keys)[0], true_rows(NAMES))


def test_a_row_larger_than_a_shard(desk: Any, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "SHARD_BYTES", 10)
    with desk.space().writer() as writer:
        for name in range(3):
            writer.add(key(name), np.full(8, name, np.float32))
    assert len(desk.shards()) == 3
    assert (desk.space().read(key(2)) == 2).all()


def test_what_another_process_writes_is_found(desk: Any, fill: Fill, key: Key, row: Row) -> None:
    early = desk.space()
    fill(desk.space(), [1])
    assert early.read(key(1)) is None
    assert early.missing([key(1)]) == []
    np.testing.assert_array_equal(early.read(key(1)), row(1))


def test_a_space_is_opened_once(desk: Any, fill: Fill, key: Key, row: Row) -> None:
    """Training and validation images often share one."""
    cache = desk.open()
    train = cache.space({"facts": "plain"}, shape=(8,))
    fill(desk.space(), [1])  # another process
    val = cache.space({"facts": "plain"}, shape=(8,))
    assert val is train
    np.testing.assert_array_equal(val.read(key(1)), row(1))
    assert cache.space({"facts": "plain"}, shape=(9,)) is not val


def test_the_card_is_for_people(desk: Any, fill: Fill) -> None:
    import json

    fill(desk.space({"weights": "ab12", "class": "späť"}), [1])
    (description,) = desk.root.glob("features/*/space.json")
    assert json.loads(description.read_bytes())["facts"] == {"facts": {"weights": "ab12", "class": "späť"}}
    description.unlink()
    space = desk.space({"weights": "ab12", "class": "späť"})
    assert len(space) == 1  # nothing depends on it
    fill(space, [2])
    assert description.exists()


def test_shards_may_be_read_by_whom_the_umask_says(desk: Any, fill: Fill) -> None:
    fill(desk.space(), [1])
    (shard,) = desk.shards()
    assert shard.stat().st_mode == shard.with_name("space.json").stat().st_mode


def test_no_torch() -> None:
    code = "import sys, cnn_tl.cache.store, cnn_tl.cache.housekeeping; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"

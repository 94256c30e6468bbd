"""A damaged cache never returns a wrong row: it warns once, and what is damaged is computed again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cnn_tl.cache import shard
from cnn_tl.cache import space as space_module

NAMES = range(12)

Fill = Callable[..., list[bytes]]
Key = Callable[[object], bytes]
Row = Callable[..., Any]


def assert_honest(desk: Any, keys: list[bytes], truth: Any) -> int:
    """Read all rows of a cache that may be damaged; return how many it could not give."""
    desk.warnings.clear()
    rows, lacking = desk.space().gather(keys)
    whole = np.setdiff1d(np.arange(len(keys)), lacking)
    np.testing.assert_array_equal(rows[whole], truth[whole])
    np.testing.assert_array_equal(rows[lacking], 0)
    assert len(desk.warnings) <= 1
    return len(lacking)


def test_any_flipped_byte(desk: Any, fill: Fill, true_rows: Row) -> None:
    keys, truth = fill(desk.space(), NAMES), true_rows(NAMES)
    (path,) = desk.shards()
    original = path.read_bytes()
    chance = np.random.default_rng(0)
    harmless = []
    for position in range(len(original)):
        damaged = bytearray(original)
        damaged[position] ^= 1 << chance.integers(8)
        path.write_bytes(damaged)
        lacking = assert_honest(desk, keys, truth)
        assert bool(lacking) == bool(desk.warnings), position
        if not lacking:
            harmless.append(position)
    # nothing can be wrong with the rows if the damage is in blanks that fill up the header
    header_end = original.index(b"}", original.rindex(b"data_offsets")) + 1
    assert all(header_end < position < len(original) - 12 * (32 + 32 + 16) for position in harmless), harmless


def test_any_length(desk: Any, fill: Fill, true_rows: Row) -> None:
    keys, truth = fill(desk.space(), NAMES), true_rows(NAMES)
    (path,) = desk.shards()
    original = path.read_bytes()
    for length in [*range(0, len(original), 7), len(original) - 1, len(original) + 1]:
        path.write_bytes((original + b"\0")[:length])
        assert assert_honest(desk, keys, truth) == len(keys)
        assert len(desk.warnings) == 1
        assert not path.exists()  # so that the next run does not meet it again


@pytest.mark.parametrize("junk", [b"\0" * 4096, b"\xff" * 4096, b"{}" * 2048, b"\x08\0\0\0\0\0\0\0{}      "])
def test_junk(desk: Any, fill: Fill, true_rows: Row, junk: bytes) -> None:
    keys, truth = fill(desk.space(), NAMES), true_rows(NAMES)
    desk.shards()[0].write_bytes(junk)
    assert assert_honest(desk, keys, truth) == len(keys)
    assert len(desk.warnings) == 1


def test_a_zeroed_block(desk: Any, fill: Fill, true_rows: Row) -> None:
    """What a file system leaves that lost power before the blocks were on disk."""
    keys, truth = fill(desk.space(), range(3000)), true_rows(range(3000))
    (path,) = desk.shards()
    data = bytearray(path.read_bytes())
    data[40_960:45_056] = bytes(4096)
    path.write_bytes(data)
    assert 128 <= assert_honest(desk, keys, truth) <= 130
    assert len(desk.warnings) == 1


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, str]], None]) -> None:
    """Change a shard as no accident would: into a file that is whole in itself."""
    tensors = {name: array.copy() for name, array in load_file(path).items()}
    from safetensors import safe_open

    with safe_open(path, "numpy") as opened:
        metadata = dict(opened.metadata())
    change(tensors, metadata)
    save_file(tensors, path, metadata)


def swap_rows(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    tensors["rows"][[0, 1]] = tensors["rows"][[1, 0]]


def swap_keys(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    tensors["keys"][[0, 1]] = tensors["keys"][[1, 0]]


def swap_rows_and_digests(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    swap_rows(tensors, metadata)
    tensors["digests"][[0, 1]] = tensors["digests"][[1, 0]]
    metadata["index_sha256"] = shard.ShardIndex(tensors["keys"], tensors["digests"]).sha256(metadata["space"])


def fewer_rows(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    tensors["rows"] = tensors["rows"][1:]


def other_type(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    tensors["rows"] = tensors["rows"].view(np.int32)


def no_digests(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    del tensors["digests"]


def no_metadata(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    metadata.clear()


def wide_keys(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    tensors["keys"] = np.repeat(tensors["keys"], 2, axis=1)


def scalar_keys(tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    tensors["keys"] = np.array(3, np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        swap_rows, swap_keys, swap_rows_and_digests, fewer_rows, other_type, no_digests, no_metadata, wide_keys,
        scalar_keys,
    ],
)  # fmt: skip
def test_whole_but_wrong(desk: Any, fill: Fill, true_rows: Row, change: Any) -> None:
    keys, truth = fill(desk.space(), NAMES), true_rows(NAMES)
    rewrite(desk.shards()[0], change)
    assert assert_honest(desk, keys, truth) == (2 if change in (swap_rows, swap_rows_and_digests) else len(keys))
    assert len(desk.warnings) == 1


def test_a_shard_of_another_space(desk: Any, fill: Fill, key: Key) -> None:
    ours, theirs = desk.space("ours"), desk.space("theirs")
    fill(ours, [1])
    fill(theirs, [2])
    shutil.copy(next(theirs.folder.glob("*.safetensors")), ours.folder)
    assert desk.space("ours").missing([key(1), key(2)]) == [1]
    assert len(desk.warnings) == 1
    assert desk.space("theirs").missing([key(2)]) == []


def test_what_was_damaged_is_whole_afterwards(desk: Any, fill: Fill, true_rows: Row) -> None:
    """The row that replaces a damaged one is found by the next run, without another warning."""
    keys, truth = fill(desk.space(), NAMES), true_rows(NAMES)
    rewrite(desk.shards()[0], swap_rows)
    space = desk.space()
    _, lacking = space.gather(keys)
    assert lacking == space.missing(keys) == [0, 1]
    fill(space, [0, 1])
    for reader in (space, desk.space()):
        rows, lacking = reader.gather(keys)
        assert lacking == []
        np.testing.assert_array_equal(rows, truth)
    assert len(desk.warnings) == 1
    assert str(desk.shards()[0]) in desk.warnings[0]


def test_one_warning_for_a_shard(desk: Any, fill: Fill, key: Key) -> None:
    fill(desk.space(), NAMES)
    rewrite(desk.shards()[0], swap_rows)
    space = desk.space()
    assert [space.read(key(0)), space.read(key(1)), space.read(key(0))] == [None, None, None]
    assert len(desk.warnings) == 1


def test_damaged_after_it_was_opened(desk: Any, fill: Fill, true_rows: Row) -> None:
    keys = fill(desk.space(), NAMES)
    space = desk.space()
    path = desk.shards()[0]
    path.write_bytes(path.read_bytes()[:-100])
    assert space.gather(keys)[1] == list(NAMES)
    assert space.missing(keys) == list(NAMES)
    assert len(desk.warnings) == 1
    fill(space, NAMES)
    np.testing.assert_array_equal(space.gather(keys)[0], true_rows(NAMES))


def test_removed_after_it_was_opened(desk: Any, fill: Fill, true_rows: Row) -> None:
    keys = fill(desk.space(), NAMES)
    space = desk.space()
    shutil.rmtree(desk.root)
    assert space.gather(keys)[1] == list(NAMES)
    assert desk.warnings == []  # another process may do that
    fill(space, NAMES)
    np.testing.assert_array_equal(desk.space().gather(keys)[0], true_rows(NAMES))


def test_removed_between_two_shards(desk: Any, fill: Fill, key: Key, true_rows: Row) -> None:
    fill(desk.space(), range(6))
    fill(desk.space(), range(6, 12))
    space = desk.space()
    desk.shards()[0].unlink()
    rows, lacking = space.gather([key(name) for name in NAMES])
    assert lacking == list(range(6))
    np.testing.assert_array_equal(rows[6:], true_rows(range(6, 12)))


def test_a_disk_that_does_not_read(desk: Any, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may read tomorrow, so nothing is removed."""
    keys = fill(desk.space(), NAMES)

    def broken(*arguments: Any, **options: Any) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(shard, "safe_open", broken)
    assert desk.space().missing(keys) == list(NAMES)
    monkeypatch.undo()
    assert desk.space().missing(keys) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_strange_things_with_our_names(desk: Any, fill: Fill, key: Key, tmp_path: Path) -> None:
    keys = fill(desk.space(), NAMES)
    folder = desk.shards()[0].parent
    os.mkfifo(folder / f"{1:020d}-00000000.safetensors")  # would wait for ever
    (folder / f"{2:020d}-00000000.safetensors").mkdir()
    (folder / f"{3:020d}-00000000.safetensors").symlink_to(tmp_path / "nowhere")
    (folder / "space.json").write_bytes(b"\xff{")
    space = desk.space()
    assert space.missing(keys) == []
    assert space.gather(keys)[1] == []
    assert desk.warnings == []


def test_ranges_of_positions() -> None:
    for positions in ([], [0], [0, 1, 2], [0, 0, 1], [0, 2, 3, 9, 9], list(range(100))):
        for most in (1, 2, 7, 1000):
            array = np.array(positions, dtype=np.int64)
            runs = [run for run in space_module._ranges(array, most) if len(run)]
            assert [index for run in runs for index in run] == list(range(len(positions)))
            for run in runs:
                assert array[run[-1]] - array[run[0]] < most
                assert set(array[run]) == set(range(array[run[0]], array[run[-1]] + 1))


@pytest.mark.parametrize("side", [3, 200])
@pytest.mark.parametrize("count", [1, 7, 16, 33])
def test_each_row_of_a_shard_has_the_digest_of_its_own(monkeypatch: pytest.MonkeyPatch, side: int, count: int) -> None:
    monkeypatch.setattr(shard, "usable", lambda: 5)
    chance = np.random.default_rng(0)
    keys = [chance.bytes(shard.KEY_BYTES) for _ in range(count)]
    rows = chance.integers(0, 256, (count, side, side), np.uint8)
    expected = [shard.row_digest(key, row.tobytes()) for key, row in zip(keys, rows, strict=True)]
    assert [digest.tobytes() for digest in shard.row_digests(keys, rows)] == expected

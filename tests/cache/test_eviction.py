"""Budget and disk: what goes, what stays, and that a run goes on without the cache."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_tl.cache import eviction, inventory, shard
from cnn_tl.cache.location import new_shard
from cnn_tl.cache.store import FeatureCache
from cnn_tl.core.errors import ResourceError

Fill = Callable[..., list[bytes]]
Key = Callable[[object], bytes]
Row = Callable[..., Any]

Usage = namedtuple("Usage", "total used free")


def size_of(desk: Any) -> int:
    return sum(path.stat().st_size for path in desk.shards())


def age(folder: Path, seconds: float) -> None:
    """Let the shards of a space be used `seconds` ago."""
    for path in folder.glob("*.safetensors"):
        os.utime(path, (path.stat().st_atime - seconds, path.stat().st_mtime - seconds))


def test_the_least_recently_used_go(desk: Any, fill: Fill, key: Key) -> None:
    names = range(100)
    old, recent = desk.space("old"), desk.space("recent")
    fill(old, names)
    fill(recent, names)
    age(old.folder, 200)
    age(recent.folder, 100)
    budget = 2 * size_of(desk) // 2 + 100  # two spaces, not three
    fill(desk.space("new", budget_bytes=budget), names)
    assert size_of(desk) <= budget
    assert not old.folder.exists()
    keys = [key(name) for name in names]
    assert desk.space("recent").missing(keys) == desk.space("new").missing(keys) == []
    assert desk.notes + desk.warnings == []


@pytest.mark.parametrize("ask", ["missing", "gather", "read"])
def test_use_counts(desk: Any, fill: Fill, key: Key, ask: str) -> None:
    """Whichever way a space is used, it is then the last to go."""
    names = range(100)
    first, second = desk.space("first"), desk.space("second")
    keys = fill(first, names)
    fill(second, names)
    age(first.folder, 200)
    age(second.folder, 100)
    budget = size_of(desk) + 100
    user = desk.space("first")
    if ask == "read":
        user.read(keys[0])
    else:
        getattr(user, ask)(keys[:1])
    fill(desk.space("new", budget_bytes=budget), names)
    assert first.folder.exists()
    assert not second.folder.exists()


def test_what_this_process_uses_stays(desk: Any, fill: Fill, key: Key, row: Row) -> None:
    cache = desk.open(budget_bytes=12_000)
    space = cache.space({"facts": "plain"}, shape=(8,))
    keys = fill(space, range(100))
    assert desk.notes == []
    more = fill(space, range(100, 200))  # no room: `add` still says yes, and keeps its word
    assert len(desk.notes) == 1
    assert "budget of 12 kB" in desk.notes[0]
    rows, lacking = space.gather([*more, *keys])
    assert lacking == []
    np.testing.assert_array_equal(rows[0], row(100))
    assert space.missing(more) == []
    assert space.read(more[-1]) is not None
    other = cache.space({"facts": "other"}, shape=(8,))
    for kept in (space, other):
        with kept.writer() as writer:
            assert writer.add(key(0), row(0)) == (kept is space)
            assert not writer.add(key(300), row(300))
    assert len(desk.notes) == 1  # once, not for every batch
    assert desk.space().missing(more) == list(range(100))
    assert desk.space().missing(keys) == []
    assert size_of(desk) <= 12_000


def test_unused_shards_of_the_own_space_go_last(desk: Any, fill: Fill, key: Key) -> None:
    names = range(100)
    fill(desk.space(), names)
    fill(desk.space("other"), names)
    space = desk.space()
    age(space.folder, 1000)  # older than the other, and yet the other goes first
    budget = size_of(desk) + 100
    space = desk.space(budget_bytes=budget)
    fill(space, range(100, 200))
    assert desk.space().missing([key(name) for name in range(200)]) == []
    assert not desk.space("other").folder.exists()
    space = desk.space(budget_bytes=budget)
    fill(space, range(200, 300))  # now one of its own has to go: another image set in the same space
    assert desk.space().missing([key(name) for name in range(300)]) == list(range(100))
    assert size_of(desk) <= budget


def remember_network(desk: Any, name: str, nbytes: int, age_seconds: float) -> Path:
    folder: Path = desk.root / "networks" / (name * 32)
    folder.mkdir(parents=True)
    (folder / "backbone.safetensors").write_bytes(bytes(nbytes))
    used = folder.stat().st_mtime - age_seconds
    os.utime(folder, (used, used))
    return folder


def test_remembered_networks_go_as_well(desk: Any, fill: Fill, key: Key) -> None:
    """They count in the budget, so they may not fill it for good."""
    old, own = remember_network(desk, "a", 20_000, 300), remember_network(desk, "b", 20_000, 400)
    fill(desk.space("recent"), range(100))
    age(desk.space("recent").folder, 100)
    cache = desk.open(budget_bytes=40_000 + size_of(desk))
    cache.keep(own)
    fill(cache.space({"facts": "new"}, shape=(8,)), range(100))
    assert desk.notes == []
    assert not old.exists()
    assert own.exists()
    assert desk.space("recent").missing([key(name) for name in range(100)]) == []


def test_room_for_a_network(desk: Any, fill: Fill) -> None:
    fill(desk.space("old"), range(100))
    budget = size_of(desk) + 100
    assert "budget" in desk.open(budget).make_room(budget + 1)
    assert desk.open(budget).make_room(100) is None
    assert len(desk.shards()) == 1
    assert desk.open(budget).make_room(101) is None
    assert desk.shards() == []


def test_a_cache_that_is_only_looked_at_stays_as_it_is(desk: Any, fill: Fill, row: Row) -> None:
    """Nothing is made, removed or touched, not even what is damaged."""

    def look() -> FeatureCache:
        return FeatureCache(desk.root, budget_bytes=10_000, read_only=True, warn=desk.warnings.append)

    assert look().why_not(1) is None
    assert "budget" in (look().why_not(10_001) or "")
    assert not desk.root.exists()
    keys = fill(desk.space(), range(10))
    new_shard(desk.shards()[0].parent).write_bytes(b"junk")
    age(desk.shards()[0].parent, 1000)
    for path in (desk.root, *desk.root.rglob("*")):
        os.utime(path, (10**9, 10**9))
    before = {path: path.stat().st_mtime for path in (desk.root, *desk.root.rglob("*"))}
    cache = look()
    space = cache.space({"facts": "plain"}, shape=(8,))
    assert space.missing(keys) == space.gather(keys)[1] == []
    assert cache.why_not(1) is None
    with space.writer() as writer:
        writer.add(bytes(32), row(0))
    assert len(desk.warnings) == 1
    assert {path: path.stat().st_mtime for path in (desk.root, *desk.root.rglob("*"))} == before


def test_a_place_that_cannot_be_written_is_seen_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = FeatureCache(tmp_path / "file" / "cache", read_only=True)
    assert "cannot be written" in (cache.why_not(1) or "")


def test_nothing_goes_in_vain(desk: Any, fill: Fill, key: Key) -> None:
    keys = fill(desk.space("old"), range(10))
    space = desk.space("new", budget_bytes=5_000)
    fill(space, range(1000))
    assert desk.space("old").missing(keys) == []
    assert len(desk.notes) == 1
    assert not space.folder.exists()


def test_why_not(desk: Any, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    assert desk.open().why_not(1000) is None
    assert desk.open(budget_bytes=1000).why_not(1000) is None
    assert desk.open(budget_bytes=1000).why_not(1001) == "1 kB more would go beyond the cache's budget of 1 kB"
    fill(desk.space(), range(10))
    assert desk.open(budget_bytes=2000).why_not(1999) is None  # the rest would go for it
    before = desk.shards()
    monkeypatch.setattr(eviction.shutil, "disk_usage", lambda path: Usage(100 * 10**9, 0, 10**9 + 500))
    assert desk.open().why_not(500) is None
    assert desk.open().why_not(5000) == f"5 kB more would leave less than 1 GB of the disk of {desk.root} free"
    monkeypatch.setattr(
        eviction.shutil, "disk_usage", lambda path: Usage(10**9, 0, 20_000_000 + 500)
    )  # 2% of a small one
    assert desk.open().why_not(500) is None
    assert "less than 20 MB" in desk.open(budget_bytes=10**9).why_not(5000)
    assert desk.shards() == before


def test_a_full_disk_makes_the_others_go(desk: Any, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(desk.space("old"), range(100))
    monkeypatch.setattr(eviction.shutil, "disk_usage", lambda path: Usage(100 * 10**9, 0, 10**9 + 5000))
    fill(desk.space("new"), range(100))
    assert not desk.space("old").folder.exists()
    assert len(desk.shards()) == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"), ResourceError("no space to write"),
        shard.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_a_disk_that_is_full_after_all(
    desk: Any, fill: Fill, true_rows: Row, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Another process may fill it between the question and the write."""

    def full(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(shard, "save_file", full)
    space = desk.space()
    keys = fill(space, range(10))
    rows, lacking = space.gather(keys)
    assert lacking == []
    np.testing.assert_array_equal(rows, true_rows(range(10)))
    assert len(desk.notes) == 1
    assert str(desk.root) in desk.notes[0]
    assert [path.name for path in space.folder.iterdir()] == ["space.json"]


@pytest.mark.parametrize("place", ["below a file", "not writable"])
def test_a_root_that_cannot_be_written(
    desk: Any, fill: Fill, true_rows: Row, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place == "below a file":
        desk.root = desk.root.parent / "file" / "cache"
        desk.root.parent.write_bytes(b"")
    else:  # by hand, since a superuser may write anywhere

        def refuse(**options: Any) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(eviction.tempfile, "TemporaryFile", refuse)
    assert "cannot be written" in desk.open().why_not(1)
    space = desk.space()
    keys = fill(space, range(10))
    np.testing.assert_array_equal(space.gather(keys)[0], true_rows(range(10)))
    assert len(desk.notes) == 1
    assert f"{desk.root} cannot be written" in desk.notes[0]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs an ordinary user of a system with permissions")
def test_a_cache_that_may_only_be_read(desk: Any, fill: Fill) -> None:
    keys = fill(desk.space(), range(10))
    for path in (desk.root, *desk.root.rglob("*")):
        path.chmod(0o500 if path.is_dir() else 0o400)
    space = desk.space()
    assert space.gather(keys)[1] == []
    fill(space, range(20))
    assert len(desk.notes) == 1
    for path in (desk.root, *desk.root.rglob("*")):
        path.chmod(0o700)


def test_old_leftovers_go_first(desk: Any, fill: Fill, key: Key) -> None:
    fill(desk.space("old"), range(100))
    folder = desk.shards()[0].parent
    leftover, fresh = folder / f".{new_shard(folder).name}.1.tmp", folder / f".{new_shard(folder).name}.2.tmp"
    for path in (leftover, fresh):
        path.write_bytes(bytes(10_000))
    os.utime(leftover, (0, 0))
    budget = size_of(desk) + 20_000
    fill(desk.space("new", budget_bytes=budget), range(100))
    assert not leftover.exists()
    assert fresh.exists()  # its writer may be alive
    assert len(desk.shards()) == 2


def test_a_clear_just_before_the_write(desk: Any, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnn_tl.cache import housekeeping

    real, clears = shard.save_file, [None]

    def cleared(tensors: Any, path: Path, metadata: Any) -> None:
        real(tensors, path, metadata)
        if clears:
            clears.pop()
            housekeeping.clear(desk.root)
            shutil.rmtree(desk.root)

    monkeypatch.setattr(shard, "save_file", cleared)
    keys = fill(desk.space(), range(10))
    assert desk.space().missing(keys) == []
    assert desk.notes == []


def test_entries_that_vanish(desk: Any, fill: Fill) -> None:
    fill(desk.space(), range(10))
    (entry,) = inventory.entries(desk.root)
    assert entry.nbytes == inventory.remove(entry)
    assert inventory.remove(entry) == 0


def images(desk: Any, facts: str, budget_bytes: int | None = None) -> Any:
    cache = FeatureCache(desk.root, holds="image", budget_bytes=budget_bytes, note=desk.notes.append)
    return cache.space({"facts": facts}, shape=(8,))


def test_images_never_push_features_out(desk: Any, fill: Fill, key: Key) -> None:
    """They are large and quickly made again; features may be hours of work."""
    names = range(100)
    features = desk.space()
    fill(features, names)
    age(features.folder, 200)
    fill(images(desk, "old"), names)
    age(images(desk, "old").folder, 100)
    budget = sum(entry.nbytes for entry in inventory.entries(desk.root)) + 100
    new = images(desk, "new", budget)
    fill(new, names)
    assert desk.notes == []
    assert not images(desk, "old").folder.exists(), "other images go"
    other = images(desk, "other", size_of(desk) + 100)  # there is room for the features, and no more
    new._eviction.in_use.clear()
    shutil.rmtree(new.folder)
    fill(other, names)
    assert [note.partition(":")[0] for note in desk.notes] == ["images are not kept for later runs"]
    assert desk.space().missing([key(name) for name in names]) == []


def test_features_push_images_out_first(desk: Any, fill: Fill, key: Key) -> None:
    names = range(100)
    old, kept = desk.space("old"), images(desk, "recent")
    fill(old, names)
    fill(kept, names)
    age(old.folder, 200)
    budget = sum(entry.nbytes for entry in inventory.entries(desk.root)) + 100
    fill(desk.space("new", budget_bytes=budget), names)
    assert not kept.folder.exists()
    assert desk.space("old").missing([key(name) for name in names]) == []

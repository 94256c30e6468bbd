from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnn_tl.cache import housekeeping, inventory
from cnn_tl.cache.location import new_shard

Fill = Callable[..., list[bytes]]


def remember_network(root: Path, name: str, nbytes: int = 1000) -> Path:
    folder = root / "networks" / name
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps({"card": {"architecture": "test_resnet"}}))
    (folder / "backbone.safetensors").write_bytes(bytes(nbytes))
    return folder


def used(path: Path, seconds: float) -> None:
    os.utime(path, (seconds, seconds))


def test_nothing_is_there(tmp_path: Path) -> None:
    root = tmp_path / "absent"
    assert housekeeping.info(root) == housekeeping.CacheInfo(root, 0, 0, (), ())
    assert housekeeping.clear(root) == housekeeping.prune(root, 0) == 0
    assert not root.exists()


def test_info(desk: Any, fill: Fill) -> None:
    fill(desk.space("old"), range(10))
    fill(desk.space("new"), range(20))
    fill(desk.space("new"), range(20, 25))
    network = remember_network(desk.root, "a" * 32)
    for number, path in enumerate(sorted(desk.root.rglob("*.safetensors"))):
        used(path, number)
    for path in desk.space("new").folder.glob("*.safetensors"):
        used(path, 1000)
    used(network, 77)
    found = housekeeping.info(desk.root)
    new, old = found.spaces
    assert new.facts == {"facts": "new"}
    assert (new.rows, new.used, new.shape, new.dtype) == (25, 1000, (8,), "float32")
    assert (old.rows, old.nbytes) == (10, sum(path.stat().st_size for path in desk.space("old").folder.glob("0*")))
    assert [(n.name, n.model, n.used) for n in found.networks] == [("a" * 32, "test_resnet", 77)]
    assert found.networks[0].nbytes > 1000
    assert found.nbytes == new.nbytes + old.nbytes + found.networks[0].nbytes


def test_info_on_what_is_damaged(desk: Any, fill: Fill) -> None:
    fill(desk.space(), range(10))
    folder = desk.space().folder
    (folder / "space.json").write_text('{"facts": 3, "shape": "x"}')
    new_shard(folder).write_bytes(b"junk")
    (remember_network(desk.root, "a" * 32) / "card.json").write_text('{"card": [1]}')
    found = housekeeping.info(desk.root)
    assert (found.spaces[0].facts, found.spaces[0].shape, found.spaces[0].rows) == ({}, (), 10)
    assert found.networks[0].model == "?"
    (folder / "space.json").unlink()
    (desk.root / "networks" / ("a" * 32) / "card.json").write_text("[]")
    assert housekeeping.info(desk.root).spaces[0].dtype == "?"


@pytest.fixture
def mixed(desk: Any, fill: Fill) -> list[Path]:
    """Fill a cache with things of ours, and put some of other people's beside them; return the latter."""
    fill(desk.space(), range(10))
    remember_network(desk.root, "a" * 32)
    space = desk.space().folder
    (space / f".{new_shard(space).name}.12ab.tmp").write_bytes(bytes(50))
    (space / ".tmpq8Xz01").write_bytes(bytes(50))
    (desk.root / "networks" / f".{'a' * 32}.tmp").mkdir()
    (desk.root / "networks" / f".{'a' * 32}.tmp" / "backbone.safetensors").write_bytes(bytes(50))
    theirs = [
        desk.root / "thesis.txt",
        desk.root / "features" / "notes.txt",
        desk.root / "features" / "old" / new_shard(desk.root).name,
        desk.root / "networks" / "mine" / "backbone.safetensors",
        space / "model.safetensors",
        desk.root / "huggingface" / "hub" / "x.tmp",
    ]
    for path in theirs:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"precious")
    return theirs


def test_clear(desk: Any, mixed: list[Path]) -> None:
    found = housekeeping.info(desk.root)
    assert found.leftover_nbytes == 150
    assert housekeeping.clear(desk.root) == found.nbytes
    assert sorted(path for path in desk.root.rglob("*") if path.is_file()) == sorted(mixed)
    assert housekeeping.info(desk.root).nbytes == 0


def test_prune_to_nothing(desk: Any, mixed: list[Path]) -> None:
    housekeeping.prune(desk.root, 0)
    left = {path for path in desk.root.rglob("*") if path.is_file()} - set(mixed)
    assert all(".tmp" in str(path) or path.name == "space.json" for path in left)  # they may be in the making
    for path in desk.root.rglob("*.tmp*"):
        used(path, 0)
    housekeeping.prune(desk.root, 10**9)  # and when they are old, they go whatever the size
    assert sorted(path for path in desk.root.rglob("*") if path.is_file()) == sorted(mixed)


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no links here")
def test_links_are_not_followed(desk: Any, fill: Fill, tmp_path: Path) -> None:
    fill(desk.space(), range(10))
    theirs = tmp_path / "theirs"
    (theirs / "x").mkdir(parents=True)
    (theirs / "x" / new_shard(theirs).name).write_bytes(b"precious")
    (desk.root / "features" / ("f" * 64)).symlink_to(theirs / "x")
    (desk.root / "networks").mkdir()
    (desk.root / "networks" / ("a" * 32)).symlink_to(theirs)
    (desk.root / "networks" / ".x.tmp").symlink_to(theirs)
    (desk.shards()[0].parent / new_shard(theirs).name).symlink_to(next((theirs / "x").iterdir()))
    housekeeping.clear(desk.root)
    assert len(list((theirs / "x").iterdir())) == 1


def test_prune_takes_the_least_recently_used(desk: Any, fill: Fill) -> None:
    for name in "abcd":
        fill(desk.space(name), range(100))
    network = remember_network(desk.root, "a" * 32, desk.shards()[0].stat().st_size)
    for moment, name in enumerate("bdac"):
        used(next(desk.space(name).folder.glob("0*")), moment)
    used(network, 1.5)  # after d, before a
    total = housekeeping.info(desk.root).nbytes
    sizes = {entry.path: entry.nbytes for entry in inventory.entries(desk.root)}
    assert housekeeping.prune(desk.root, total) == 0
    assert len(desk.shards()) == 4
    freed = housekeeping.prune(desk.root, total - 1)
    assert freed == sizes[next(path for path in sizes if path.parent == desk.space("b").folder)]
    assert housekeeping.prune(desk.root, total - freed - 1 - freed) > 0
    assert not network.exists()
    assert [len(desk.space(name)) for name in "abcd"] == [100, 0, 100, 0]
    assert sorted(path.name for path in (desk.root / "features").iterdir()) == sorted(
        desk.space(name).folder.name for name in "ac"
    )


def test_what_cannot_be_removed(desk: Any, fill: Fill, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(desk.space(), range(10))

    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(inventory.Path, "unlink", refuse)
    assert housekeeping.clear(desk.root) == 0
    assert housekeeping.prune(desk.root, 0) == 0
    monkeypatch.undo()
    assert len(desk.space()) == 10


def test_while_it_is_being_used(desk: Any, fill: Fill) -> None:
    """What was opened before goes on: what is gone is missing, and what is written again is there."""
    space = desk.space()
    keys = fill(space, range(10))
    assert space.gather(keys)[1] == []
    housekeeping.clear(desk.root)
    assert space.gather(keys)[1] == list(range(10))
    fill(space, range(10))
    assert space.gather(keys)[1] == []
    shutil.rmtree(desk.root)
    assert desk.warnings + desk.notes == []

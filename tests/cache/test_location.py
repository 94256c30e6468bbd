from __future__ import annotations

from pathlib import Path

import pytest

from cnn_tl.cache import location


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("CNN_TL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def test_the_first_that_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert location.default_root() == tmp_path / "home" / ".cache" / "cnn-tl"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert location.default_root() == tmp_path / "xdg" / "cnn-tl"
    monkeypatch.setenv("CNN_TL_CACHE", str(tmp_path / "own"))
    assert location.default_root() == tmp_path / "own"


def test_relative_and_empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CNN_TL_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the XDG specification: to be ignored
    assert location.default_root() == tmp_path / "home" / ".cache" / "cnn-tl"
    monkeypatch.setenv("CNN_TL_CACHE", "relative")
    assert location.default_root() == tmp_path / "relative"
    monkeypatch.setenv("CNN_TL_CACHE", "~/mine")
    assert location.default_root() == tmp_path / "home" / "mine"


def test_nobody_knows_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(location.Path, "home", unknown)
    root = location.default_root()
    assert root.is_absolute()
    assert root.parts[-2:] == (".cache", "cnn-tl")


def test_later_shards_have_later_names(tmp_path: Path) -> None:
    names = [location.new_shard(tmp_path) for _ in range(100)]
    assert len(set(names)) == 100
    assert [name.name[:20] for name in names] == sorted(name.name[:20] for name in names)


def test_only_ours_is_found(tmp_path: Path) -> None:
    space = tmp_path / "features" / ("a" * 64)
    network = tmp_path / "networks" / ("b" * 32)
    for folder in (space, network, tmp_path / "features" / "notes", tmp_path / "networks" / "mine"):
        folder.mkdir(parents=True)
    ours = location.new_shard(space)
    for path in (ours, space / "model.safetensors", space / "space.json", space / f".{ours.name}.1f.tmp"):
        path.touch()
    (space / "x.tmp").touch()
    assert location.spaces_in(tmp_path) == [space]
    assert location.networks_in(tmp_path) == [network]
    assert [entry.name for entry in location.shards_in(space)] == [ours.name]
    assert location.leftovers_in(space) == [space / f".{ours.name}.1f.tmp"]
    assert location.spaces_in(tmp_path / "absent") == []

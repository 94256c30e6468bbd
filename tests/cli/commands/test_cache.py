from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_tl.cache import inventory
from cnn_tl.cache.store import FeatureCache


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CNN_TL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def filled(root: Path) -> Path:
    facts = {"model": "test_resnet", "boundary": "features", "precision": "fp32", "preprocessing": {"width": 160}}
    for number, name in enumerate(("test_resnet", "evil\x1b[31m")):
        space = FeatureCache(root).space(facts | {"model": name}, shape=(256,))
        with space.writer() as writer:
            for row in range(1000 if number else 10):
                writer.add(row.to_bytes(32, "big"), np.full(256, row, np.float32))
    for path in root.rglob("*.safetensors"):
        ago = 3 * 86_400 if path.stat().st_size < 100_000 else 90
        os.utime(path, (path.stat().st_mtime - ago,) * 2)
    network = root / "networks" / ("a" * 32)
    network.mkdir(parents=True)
    (network / "card.json").write_text(json.dumps({"card": {"architecture": "test_vit"}}))
    return root


def test_nothing_is_there(cli: Callable[..., Any], root: Path) -> None:
    done = cli("cache", "info")
    assert (done.code, done.out, done.err) == (0, f"{root}: 0 B\n", "")
    assert cli("cache", "clear").out == "freed 0 B\n"
    assert cli("cache", "prune", "--max-size", "1GB").out == "freed 0 B; 0 B are left\n"
    assert not root.exists()


def test_info(cli: Callable[..., Any], filled: Path) -> None:
    done = cli("cache", "info")
    assert done.code == 0
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == [f"{filled}:", "1.08", "MB"]
    assert lines[4:7] == [
        ["evil\\x1b[31m", "features,", "160", "px,", "fp32", "1,000", "1.07", "MB", "1", "minute", "ago"],
        ["test_resnet", "features,", "160", "px,", "fp32", "10", "11.1", "kB", "3", "days", "ago"],
        ["test_vit", "network", "38", "B", "just", "now"],
    ]
    assert done.err == ""


def test_info_names_images(cli: Callable[..., Any], root: Path) -> None:
    cache = FeatureCache(root, holds="image")
    for facts, shape in (
        ({"pictures": "sources", "side": 320, "row_side": 128, "pillow": "1"}, (8,)),
        ({"pictures": "plain", "preprocessing": {"width": 224}, "pillow": "1"}, (2, 2, 3)),
    ):
        with cache.space(facts, shape=shape, dtype="uint8").writer() as writer:
            writer.add(bytes(32), np.zeros(shape, np.uint8))
    done = cli("cache", "info")
    assert "sources of 320 px, rows of 128" in done.out
    assert "plain, 224 px" in done.out
    assert cli("cache", "prune", "--max-size", "0").code == 0
    assert list(root.iterdir()) == []


def test_info_for_machines(cli: Callable[..., Any], filled: Path) -> None:
    done = cli("cache", "info", "--json")
    found = json.loads(done.out)
    assert found["root"] == str(filled)
    assert [space["rows"] for space in found["spaces"]] == [1000, 10]
    assert found["spaces"][1]["facts"]["model"] == "test_resnet"
    assert found["networks"][0]["model"] == "test_vit"
    assert found["nbytes"] == sum(item["nbytes"] for item in found["spaces"] + found["networks"])


def test_prune(cli: Callable[..., Any], filled: Path) -> None:
    done = cli("cache", "prune", "--max-size", "1.08MB")
    assert (done.code, done.out) == (0, "freed 11.1 kB; 1.07 MB are left\n")
    assert [len(list(filled.glob(name))) for name in ("features/*", "networks/*")] == [1, 1]


def test_clear(cli: Callable[..., Any], filled: Path) -> None:
    done = cli("cache", "clear")
    assert (done.code, done.out) == (0, "freed 1.08 MB\n")
    assert list(filled.iterdir()) == []


@pytest.mark.parametrize("size", ["", "much", "-1GB", "2G"])
def test_no_size(cli: Callable[..., Any], filled: Path, size: str) -> None:
    done = cli("cache", "prune", f"--max-size={size}")
    assert done.code == 2
    assert done.err == f"error: {size!r} is not a size; write for example 500MB, 2GB or 1.5GiB\n"
    assert len(list(filled.rglob("*.safetensors"))) == 2


def test_size_is_needed(cli: Callable[..., Any], root: Path) -> None:
    assert cli("cache", "prune").code == 2


@pytest.mark.parametrize("words", [("clear",), ("prune", "--max-size", "1kB")])
def test_what_cannot_be_removed(
    cli: Callable[..., Any], filled: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(inventory.Path, "unlink", refuse)
    done = cli("cache", *words)
    assert done.code == 5
    assert "cannot be removed" in done.err
    assert str(filled) in done.err

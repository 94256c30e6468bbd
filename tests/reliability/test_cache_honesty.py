"""The cache misses when one byte of an image, the transform, the weights or the precision changes. Otherwise it hits
and returns exactly what would have been computed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from cnn_tl.core.errors import ArtefactError
from cnn_tl.core.progress import Observer
from cnn_tl.heads import HEADS
from cnn_tl.networks import info
from cnn_tl.recipe import Recipe
from cnn_tl.training.result import TrainResult
from cnn_tl.training.run import train

Train = Callable[..., TrainResult]
COUNTS = {"ash": 10, "birch": 10, "cedar": 10}


@pytest.fixture
def data(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path / "data", COUNTS)


@pytest.fixture
def weights(tmp_path: Path, tiny_weights: Path) -> Path:
    return Path(shutil.copy(tiny_weights, tmp_path / "mine.safetensors"))


@pytest.fixture
def run(tmp_path: Path, data: Path, weights: Path) -> Train:
    def go(name: str, observer: Observer | None = None, **sections: Mapping[str, Any]) -> TrainResult:
        tree: dict[str, Any] = {
            "data": {"path": str(data)},
            "model": {"name": "test_resnet", "image_size": 64, "weights": str(weights)},
            "run": {"precision": "fp32"},
        }
        for section, values in sections.items():
            tree[section] = tree.get(section, {}) | values if isinstance(values, dict) else values
        return train(Recipe.model_validate(tree), tmp_path / name, observer=observer)

    return go


def computed(result: TrainResult) -> int:
    count: int = result.facts["features"]["computed"]
    assert count + result.facts["features"]["from_cache"] >= 30
    return count


def same(one: TrainResult, other: TrainResult) -> bool:
    first, second = (load_file(r.run / "model" / "model.safetensors") for r in (one, other))
    answers = [(r.run / "validation.jsonl").read_text() for r in (one, other)]
    return answers[0] == answers[1] and all(torch.equal(first[name], second[name]) for name in first)


def test_a_second_run_computes_nothing_and_ends_the_same(run: Train) -> None:
    first, second, without = run("a"), run("b"), run("c", features={"cache": False})
    assert [computed(result) for result in (first, second, without)] == [30, 0, 30]
    assert same(first, second)
    assert same(first, without)
    assert not list((without.run / "checkpoints").rglob("*.safetensors"))


def test_a_second_run_loads_no_torch(run: Train, data: Path, weights: Path, tmp_path: Path) -> None:
    run("a")
    command = [
        "train", data, "--model", "test_resnet", "--image-size", "64", "--weights", weights,
        "--set", "run.precision=fp32", "--output", tmp_path / "b",
    ]  # fmt: skip
    code = (
        "import sys; from cnn_tl.cli import app\n"
        "assert app.run(sys.argv[1:]) == 0\n"
        "assert not {'torch', 'torchvision', 'timm'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, *map(str, command)], check=True)
    assert (tmp_path / "b" / "model" / "model.safetensors").is_file()


def test_neither_place_nor_name_counts(run: Train, data: Path, weights: Path, tmp_path: Path) -> None:
    first = run("a")
    moved = data.rename(tmp_path / "moved")
    elsewhere = weights.rename(tmp_path / "elsewhere.safetensors")
    again = run("b", data={"path": str(moved)}, model={"weights": str(elsewhere)})
    assert computed(again) == 0
    assert same(first, again)


def test_one_byte_of_a_image(run: Train, data: Path) -> None:
    run("a")
    with Image.open(data / "ash" / "0.png") as image:
        image.putpixel((0, 0), (1, 2, 3))
        image.save(data / "ash" / "0.png")
    assert computed(run("b")) == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": {"image_size": 96}}, 30),
        ({"run": {"precision": "bf16"}}, 0),  # float32 in any case on a CPU
        ({"features": {"views": 2}}, 24),
        ({"head": {"kind": "prototype"}}, 0),
        ({"seed": 1}, 0),
        ({"data": {"max_pixels": 10_000}}, 0),
    ],
    ids=str,
)
def test_what_counts_and_what_does_not(run: Train, change: Mapping[str, Any], expected: int) -> None:
    run("a")
    assert computed(run("b", **change)) == expected


def test_one_number_of_the_weights(run: Train, weights: Path) -> None:
    run("a")
    state = load_file(weights)
    name = next(name for name in state if not name.startswith("fc.") and state[name].ndim == 4)
    state[name].view(-1)[0] += 1e-3
    save_file(state, weights)
    assert computed(run("b")) == 30


def test_views_of_another_seed_are_others(run: Train) -> None:
    run("a", features={"views": 2})
    assert computed(run("b", features={"views": 2})) == 0
    assert computed(run("c", features={"views": 2}, augment={"flip": False})) == 24
    assert computed(run("d", features={"views": 3})) == 24


def test_every_setting_that_varies_images_makes_other_views(run: Train) -> None:
    def count(name: str, **augment: Any) -> int:
        return computed(run(name, features={"views": 2}, augment=augment))

    assert count("a", mixup=0) == 54
    assert count("b", policy="none", erasing=0, cutmix=0) == 0
    assert count("c", erasing=0.5) == 24
    assert count("d", policy="randaugment") == 24
    assert count("e", policy="randaugment", magnitude=9, ops=2) == 0
    assert count("f", policy="randaugment", magnitude=10) == 24
    assert count("g", policy="trivialaugment") == 24
    assert count("h", erasing=0.5) == 0


def test_a_flipped_byte_is_said_and_computed_again(run: Train, own_cache: Path) -> None:
    first = run("a")
    [shard, *_] = sorted(own_cache.glob("features/*/*.safetensors"))
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    shard.write_bytes(damaged)
    warnings: list[str] = []
    observer = Observer()
    observer.warn = warnings.append  # type: ignore[method-assign]
    again = run("b", observer)
    assert len(warnings) == 1
    assert computed(again) == 1
    assert same(first, again)
    assert computed(run("c")) == 0


def test_a_cache_that_cannot_be_written_is_said_and_does_no_harm(run: Train, own_cache: Path, tmp_path: Path) -> None:
    own_cache.parent.mkdir(parents=True, exist_ok=True)
    own_cache.write_text("a file stands where the cache would be")
    notes: list[str] = []
    observer = Observer()
    observer.note = notes.append  # type: ignore[method-assign]
    first, second = run("a", observer), run("b")
    assert [computed(result) for result in (first, second)] == [30, 30]
    assert any("kept for this run only" in note for note in notes)
    assert same(first, second)


def test_a_network_lost_at_the_end_is_built_again(run: Train, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process empties the cache while a run that found everything in it fits its head."""
    first = run("a")
    fit = HEADS["auto"]

    def emptied(*arguments: Any) -> Any:
        fitted = fit(*arguments)
        shutil.rmtree(own_cache / "networks")
        return fitted

    monkeypatch.setitem(HEADS, "auto", emptied)
    assert same(first, run("b"))


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_weights_that_change_under_a_run(
    run: Train, weights: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """Features of replaced weights must not be cached under the digest of the original ones.

    onnxruntime computes with the remembered weights, torch would with those of the file.
    """
    monkeypatch.setattr("cnn_tl.training.backbone_graph.CLEARLY", 1e9 if engine == "torch" else 0.0)
    first = run("a")
    [shard, *_] = sorted(own_cache.glob("features/*/*.safetensors"))
    shard.unlink()
    read = info.recall

    def replaced(folder: Path) -> Any:
        known = read(folder)
        save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
        return known

    monkeypatch.setattr(info, "recall", replaced)
    if engine == "onnxruntime":
        assert same(first, run("b"))
        return
    with pytest.raises(ArtefactError, match="have changed during the run"):
        run("b")

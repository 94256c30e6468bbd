"""Kept images save work and change nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from whole_runs import assert_close

from cnn_tl.cache import writer
from cnn_tl.cache.eviction import Eviction
from cnn_tl.cache.space import Space
from cnn_tl.core.errors import DataError
from cnn_tl.core.progress import Observer, Plan
from cnn_tl.data.decoding.image import read_image
from cnn_tl.data.views import image_source, transforms
from cnn_tl.features.devices import noise
from cnn_tl.recipe import Recipe
from cnn_tl.training.loop import activations
from cnn_tl.training.run import plan, train

TRAIN, VAL = 20, 5
Make = Callable[..., Recipe]


class Listener(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.tasks: list[str] = []
        self.plans: list[Plan] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def start(self, task: str, total: int | None, unit: str = "images") -> None:
        self.tasks.append(task)

    def plan(self, plan: Plan) -> None:
        self.plans.append(plan)


@pytest.fixture
def data(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    """Write images of several sizes, so that sources are kept in rows of several lengths."""
    folder = make_images(tmp_path / "data", {"ash": 10, "birch": 15}, side=50)
    for number in range(4):
        image = Image.effect_noise((300 + 10 * number, 200), 60).convert("RGB")
        image.save(folder / "ash" / f"{number}.png")
        image.resize((20, 30)).save(folder / "birch" / f"{number}.png")
    return folder


@pytest.fixture
def recipe(data: Path, tiny_weights: Path) -> Make:
    def make(**sections: Mapping[str, Any]) -> Recipe:
        tree: dict[str, Any] = {
            "mode": "finetune",
            "data": {"path": str(data)},
            "model": {"name": "test_resnet", "weights": str(tiny_weights), "image_size": 64},
            "train": {"epochs": 2, "batch_size": 8, "lr": 0.001},
            "run": {"device": "cpu", "precision": "fp32"},
        }
        for name, values in sections.items():
            tree[name] = tree.get(name, {}) | values
        return Recipe.model_validate(tree)

    return make


@contextmanager
def decoded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """Collect the files that are decoded."""
    found: list[Path] = []
    with monkeypatch.context() as patch:
        for module in (transforms, image_source):

            def read(file: Path, *rest: Any, real: Any = module.read_image, **named: Any) -> Any:
                found.append(file)
                return real(file, *rest, **named)

            patch.setattr(module, "read_image", read)
        yield found


def shards(cache: Path) -> list[Path]:
    return sorted((cache / "pictures").rglob("*.safetensors"))


def flip_a_bit(path: Path) -> None:
    """Change the last byte of the file that is not zero: one of an image, which lie at the end."""
    content = bytearray(path.read_bytes())
    content[len(content.rstrip(b"\0")) - 1] ^= 1
    path.write_bytes(content)


def assert_same(one: Path, other: Path) -> None:
    first, second = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert (one / "validation.jsonl").read_text() == (other / "validation.jsonl").read_text()


def facts(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text())["facts"]["images"]
    return found


def test_each_image_is_decoded_once_and_never_again(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setattr("cnn_tl.training.backbone_graph._images", lambda dataset: noise(dataset.preprocessing, 2))
    with decoded(monkeypatch) as files:
        train(recipe(), tmp_path / "first")
    assert len(files) == len(set(files)) == TRAIN + VAL
    assert facts(tmp_path / "first") == {"decoded": 25, "from_cache": 0, "decoded_in_each_epoch": 0}
    with decoded(monkeypatch) as files:
        train(recipe(train={"epochs": 3}), tmp_path / "longer")
        train(recipe(), tmp_path / "second")
    assert files == []
    assert facts(tmp_path / "second") == {"decoded": 0, "from_cache": 25, "decoded_in_each_epoch": 0}
    assert len({path.parent for path in shards(own_cache)}) == 4, "the plain views, and rows of three lengths"
    assert not list((tmp_path / "second").rglob("images"))
    assert_same(tmp_path / "first", tmp_path / "second")


def test_without_keeping_each_epoch_decodes(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    train(recipe(), tmp_path / "kept")
    listener = Listener()
    with decoded(monkeypatch) as files:
        train(recipe(data={"keep_images": False}), tmp_path / "anew", observer=listener)
    epochs, check, head, start, end = 2, 1, 1, 1, 1
    assert len(files) == (epochs + check) * (TRAIN + VAL) + head * TRAIN + (start + end) * VAL
    assert "checking images" in listener.tasks
    assert listener.plans[0].images is None
    assert "images" not in json.loads((tmp_path / "anew" / "result.json").read_text())["facts"]
    assert_same(tmp_path / "kept", tmp_path / "anew")


def test_a_cache_of_its_own_goes_with_the_run(recipe: Make, tmp_path: Path, own_cache: Path) -> None:
    train(recipe(features={"cache": False}), tmp_path / "own")
    assert not shards(own_cache)
    assert not list(tmp_path.rglob("images"))
    train(recipe(), tmp_path / "shared")
    assert_same(tmp_path / "own", tmp_path / "shared")


def test_half_of_the_cache_is_enough(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    monkeypatch.setattr(writer, "SHARD_ROWS", 4)
    train(recipe(), tmp_path / "first")
    for path in shards(own_cache)[::2]:
        path.unlink()
    with decoded(monkeypatch) as files:
        train(recipe(), tmp_path / "second")
    assert 0 < len(files) == len(set(files)) < TRAIN + VAL
    assert facts(tmp_path / "second")["decoded"] == len(files)
    assert_same(tmp_path / "first", tmp_path / "second")


def test_a_flipped_byte_is_reported_once_and_repaired(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    train(recipe(), tmp_path / "first")
    for path in shards(own_cache):
        flip_a_bit(path)
    listener = Listener()
    with decoded(monkeypatch) as files:
        train(recipe(), tmp_path / "second", observer=listener)
    assert len(listener.warnings) == len(files) == 4
    assert all(warning.startswith("the image cache was damaged") for warning in listener.warnings)
    again = Listener()
    with decoded(monkeypatch) as files:
        train(recipe(), tmp_path / "third", observer=again)
    assert again.warnings == files == []
    for run in ("second", "third"):
        assert_same(tmp_path / "first", tmp_path / run)


def test_a_cache_that_vanishes_on_the_way_does_no_harm(recipe: Make, tmp_path: Path, own_cache: Path) -> None:
    class Removes(Observer):
        def epoch(self, figures: Mapping[str, float]) -> None:
            for path in shards(own_cache):
                path.unlink()

    train(recipe(train={"epochs": 3}), tmp_path / "first", observer=Removes())
    assert shards(own_cache) == [], "removed again after the last epoch"
    train(recipe(train={"epochs": 3}), tmp_path / "second")
    assert_same(tmp_path / "first", tmp_path / "second")


@pytest.mark.parametrize("memory_gb", [0, 2e-5, 1])
def test_no_room_is_said_once(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path, memory_gb: float
) -> None:
    monkeypatch.setattr("cnn_tl.training.backbone_graph._images", lambda dataset: noise(dataset.preprocessing, 2))
    monkeypatch.setattr(writer, "SHARD_ROWS", 1)
    monkeypatch.setattr(Eviction, "make_room", lambda self, nbytes: "the disk is full")
    listener = Listener()
    with decoded(monkeypatch) as files:
        train(recipe(data={"memory_gb": memory_gb}), tmp_path / "full", observer=listener)
    [note] = [note for note in listener.notes if "images" in note and "head alone" not in note]
    assert note.startswith("images are not kept for later runs: the disk is full; ")
    anew = facts(tmp_path / "full")["decoded_in_each_epoch"]
    assert f"{anew} are decoded in each epoch" in note
    assert (anew > 0) == (memory_gb < 1)
    assert (len(files) > TRAIN + VAL) == (memory_gb < 1)
    assert not shards(own_cache)
    monkeypatch.undo()
    train(recipe(features={"cache": False}), tmp_path / "roomy")
    assert_same(tmp_path / "full", tmp_path / "roomy")


def test_a_broken_image_is_found_whether_others_are_kept_or_not(recipe: Make, data: Path, tmp_path: Path) -> None:
    train(recipe(), tmp_path / "first")
    victim = data / "birch" / "9.png"
    victim.write_bytes(victim.read_bytes()[:-60])
    for run in ("second", "third"):
        train(recipe(), tmp_path / run)
        set_aside = json.loads((tmp_path / run / "manifest.json").read_text())["set_aside"]
        assert [broken["path"] for broken in set_aside] == ["birch/9.png"]
    assert_same(tmp_path / "second", tmp_path / "third")
    with pytest.raises(DataError, match=r"9\.png"):
        train(recipe(data={"on_bad_image": "fail"}), tmp_path / "strict")


def test_a_kept_image_may_vanish_while_the_run_lasts(recipe: Make, data: Path, tmp_path: Path) -> None:
    class Removes(Observer):
        def epoch(self, figures: Mapping[str, float]) -> None:
            (data / "birch" / "2.png").unlink(missing_ok=True)

    result = train(recipe(), tmp_path / "run", observer=Removes())
    assert result.images == VAL


def test_the_plan_says_what_is_decoded_and_leaves_no_trace(recipe: Make, tmp_path: Path, own_cache: Path) -> None:
    before = plan(recipe(), tmp_path / "run").images
    assert before is not None
    assert (before.computed, before.from_cache) == (25, 0)
    assert not shards(own_cache)
    train(recipe(), tmp_path / "run")
    on_disk = sum(path.stat().st_size for path in shards(own_cache))
    assert before.bytes == pytest.approx(on_disk, rel=0.1)
    after = plan(recipe(), tmp_path / "other").images
    assert after is not None
    assert (after.computed, after.from_cache, after.bytes) == (0, 25, 0)


def test_other_settings_share_the_sources(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(recipe(), tmp_path / "first")
    with decoded(monkeypatch) as files:
        train(recipe(augment={"crop_scale_min": 0.49, "color": 0.5}), tmp_path / "second")
    assert files == []


@pytest.mark.parametrize("kept", [True, False])
def test_activations_are_those_of_the_same_views(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """Part of the network frozen: whether images or activations are kept, the weights come out the same."""
    sections = {"model": {"freeze": "last-stage"}, "features": {"views": 2, "cache": False}}
    train(recipe(**sections, data={"keep_images": kept}), tmp_path / "activations")
    monkeypatch.setattr(activations, "split", lambda *_: "this test forbids it")
    with decoded(monkeypatch) as files:
        train(recipe(**sections), tmp_path / "anew")
    assert len(files) == 2 * TRAIN + VAL, "the plain view, and the source of the other one"
    cut, whole = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("activations", "anew"))
    for name, tensor in cut.items():
        assert_close(whole[name], tensor, 0.01)  # cut, the frozen part passes in batches of another size


def test_a_kill_while_images_are_prepared_loses_little(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    code = """
import os, signal, sys
from cnn_tl.cache import writer
from cnn_tl.core.progress import Observer
from cnn_tl.recipe import Recipe
from cnn_tl.training.run import train

class Kills(Observer):
    left = 17
    def advance(self, done, figures=None):
        self.left -= done
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

from cnn_tl.training import dataset
writer.SHARD_ROWS, dataset.CHECKED_AT_ONCE = 2, 4
train(Recipe.model_validate_json(sys.argv[1]), sys.argv[2], observer=Kills())
"""
    chosen = recipe()
    # scanning, too, advances: 25 images
    code = code.replace("left = 17", "left = 25 + 17")
    command = [sys.executable, "-c", code, chosen.model_dump_json(), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ}, check=False)
    assert done.returncode == -9, done.stderr
    with decoded(monkeypatch) as files:
        train(chosen, tmp_path / "run", resume=True)
    assert 5 <= len(files) <= 5 + 4 + 4 * 2
    train(recipe(features={"cache": False}), tmp_path / "undisturbed")
    assert_same(tmp_path / "run", tmp_path / "undisturbed")


def test_views_differ_little_from_those_of_whole_images(shared: Path) -> None:
    """To photographs it makes less of a difference than bilinear instead of bicubic does."""
    from cnn_tl.core.preprocessing import Preprocessing
    from cnn_tl.data.views.augment import Augmentation, augment

    spec = Preprocessing(224, 224, "bicubic", 0.875, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    settings = Augmentation(0.5, flip=False, color=0)
    side = image_source.source_side(spec, settings)
    differences = []
    for file in sorted((shared / "data" / "pizza_steak_sushi").rglob("*.jpg"))[:20]:
        whole = read_image(file, spec, draft=transforms.draft_size(spec, 2**0.5))
        view = augment(whole, spec, settings, 1).astype(int)
        others = (
            augment(image_source.read_source(file, spec, side), spec, settings, 1),
            augment(whole, replace(spec, interpolation="bilinear"), settings, 1),
        )
        differences.append([np.abs(view - other).mean() for other in others])
    ours, bilinear = np.mean(differences, axis=0)
    assert ours < bilinear < 2


def test_sources_of_a_device_are_loaded_from_what_was_just_decoded(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the memory allows; a later run reads them from the cache."""
    fetched: list[bytes] = []
    real = Space.fetch

    def fetch(self: Space, key: bytes) -> Any:
        row = real(self, key)
        if row is not None and row.ndim == 1:  # a source
            fetched.append(key)
        return row

    monkeypatch.setattr(Space, "fetch", fetch)
    for name, memory, expected in (("first", 1.0, 0), ("again", 1.0, TRAIN), ("short", 0.0, TRAIN)):
        if name == "short":
            shutil.rmtree(tmp_path / "feature cache")
        fetched.clear()
        settings = {"data": {"memory_gb": memory}, "run": {"sources": "device"}}
        train(recipe(**settings), tmp_path / name)
        assert len(fetched) == expected, name
        assert_same(tmp_path / "first", tmp_path / name)

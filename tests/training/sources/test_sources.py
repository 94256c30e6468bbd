"""Each tier gives the same steps, to the bit, and one that has no room gives way to the next."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_sources import Store, dataset, same, unpacked
from whole_runs import StopAfter, assert_same_weights, metrics

from cnn_tl.core.errors import BadImageError, DataError, RecipeError, Stopped
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.recipe import Recipe
from cnn_tl.training.run import plan, train
from cnn_tl.training.sources import device_views, sources, tiers
from cnn_tl.training.sources.sources import open_sources
from cnn_tl.training.sources.staging import Pixels

Make = Callable[..., Recipe]
CPU = torch.device("cpu")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("tier", tiers.TIERS)
def test_each_tier_gives_the_images_of_each_step(monkeypatch: pytest.MonkeyPatch, tier: str, device: str) -> None:
    monkeypatch.setattr(sources, "CHUNK_BYTES", 10_000)  # a few images
    store = Store(40)
    opened = open_sources(dataset(store, tier)[0], store.images, torch.device(device))
    assert (opened.reads.tier, opened.reads.reason) == (tier, None)
    assert opened.reads.bytes == sum(pixels.nbytes for pixels in store.pixels.values())
    loaded = 40 if tier in ("device", "pinned") else 0
    assert sum(store.reads.values()) == loaded
    for epoch in range(2):
        order = np.random.default_rng(epoch).integers(0, 40, 60).tolist()  # some images several times
        groups = [[store.images[number] for number in part] for part in np.split(np.array(order), [1, 8, 30, 59])]
        with opened.steps(groups) as steps:
            for step, group in zip(steps, groups, strict=True):
                assert same(unpacked(step), [store.pixels[image.sha256] for image in group])
    with opened.steps([]) as steps:
        assert list(steps) == [], "a process may have no share"
    decoded = "decoded_source" if tier == "decode" else "source"
    assert store.reads[decoded] == sum(store.reads.values()) == (loaded or 120)


@pytest.mark.parametrize(
    ("memory", "on_device", "kept", "absent", "tier", "why"),
    [
        (10**9, 0, True, 0, "pinned", ["device: "]),
        (10, 0, True, 0, "disk", ["device: ", "pinned: "]),
        (10, 0, True, 3, "decode", ["device: ", "pinned: ", "disk: the cache lacks 3 images"]),
        (10, 0, False, 0, "decode", ["device: ", "pinned: ", "disk: data.keep_images is false"]),
    ],
)
def test_a_tier_without_room_gives_way_to_the_next_which_is_reported(
    monkeypatch: pytest.MonkeyPatch, memory: int, on_device: int, kept: bool, absent: int, tier: str, why: list[str]
) -> None:
    monkeypatch.setattr(tiers, "most_on_device", lambda device, world: on_device)
    store = Store(10, memory)
    store.are_kept, store.absent = kept, absent
    data, observer = dataset(store, "device")
    reads = open_sources(data, store.images, CPU).reads
    assert reads.tier == tier
    assert [reason.startswith(text) for reason, text in zip((reads.reason or "").split("; "), why, strict=True)]
    assert [note for note in observer.notes if note.endswith(f"({reads.reason})")] == observer.notes
    assert store.reads["decoded_source"] == 0, "what the cache has is not decoded"


@pytest.mark.parametrize("tier", ["device", "pinned"])
def test_images_may_be_larger_than_expected(monkeypatch: pytest.MonkeyPatch, tier: str) -> None:
    store = Store(40, expected=0.3)
    monkeypatch.setattr(sources, "CHUNK_BYTES", 10_000)
    opened = open_sources(dataset(store, tier)[0], store.images, CPU)
    with opened.steps([store.images]) as steps:
        assert same(unpacked(next(steps)), list(store.pixels.values()))
    assert opened.reads.tier == tier


def test_images_that_turn_out_too_large_lie_in_the_next_tier(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(40, memory=30_000, expected=0.3)
    monkeypatch.setattr(sources, "CHUNK_BYTES", 10_000)
    monkeypatch.setattr(tiers, "most_on_device", lambda device, world: 30_000)
    reads = open_sources(dataset(store)[0], store.images, CPU).reads
    larger = "they take more memory than expected"
    assert (reads.tier, reads.reason) == ("disk", f"device: {larger}; pinned: {larger}")
    assert store.memory.left == 30_000, "what is not used is given back"


def test_memory_that_others_have_taken_is_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    store = Store(10)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "PixelBuffer", full)
        reads = open_sources(dataset(store)[0], store.images, CPU).reads
    assert (reads.tier, reads.reason) == ("disk", "device: memory ran out; pinned: memory ran out")


@pytest.mark.parametrize("tier", ["disk", "decode"])
def test_an_image_that_can_no_longer_be_read_ends_the_run(monkeypatch: pytest.MonkeyPatch, tier: str) -> None:
    store = Store(10)
    opened = open_sources(dataset(store, tier)[0], store.images, CPU)

    def fail(image: ImageRecord) -> Pixels:
        if image is store.images[7]:
            raise BadImageError("ash/7.png", "truncated")
        return store.pixels[image.sha256]

    monkeypatch.setattr(opened, "_read", fail)
    groups = [store.images[:5], store.images[5:]]
    with opened.steps(groups) as steps, pytest.raises(DataError, match=r"ash/7\.png: truncated; it could be read when"):
        assert len([next(steps), next(steps)]) == 0


MEMORY = """
import resource, sys
from types import SimpleNamespace
import numpy as np, torch
from synthetic_sources import dataset, record
from cnn_tl.cache.multi_shape import MemoryBudget
from cnn_tl.training.sources.sources import open_sources

pixels = np.zeros((60, 60, 3), np.uint8)  # 1 GB in all
images = [record(number) for number in range(100_000)]
def source(image):
    return pixels.copy()
store = SimpleNamespace(
    memory=MemoryBudget(5 * 10**8), are_kept=True,
    lacking_sources=lambda images: [], source=source, decoded_source=source,
    expected_source_bytes=lambda images: len(images) * pixels.nbytes,
)
data, _ = dataset(store, sys.argv[1])
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before = peak()
opened = open_sources(data, images, torch.device("cpu"))
groups = [images[start : start + 64] for start in range(0, len(images), 64)]
with opened.steps(groups) as steps:
    seen = sum(len(step.sizes) for step in steps)
print(seen, peak() - before, opened.reads.tier)
"""


@pytest.mark.skipif(os.name == "nt", reason="measures memory by Unix's getrusage")
@pytest.mark.parametrize(("wanted", "tier"), [("pinned", "disk"), ("decode", "decode")])
def test_memory_stays_within_its_budget_at_100_000_images(wanted: str, tier: str) -> None:
    """The sources take 1.1 GB, of which half may lie in memory; a step takes 0.7 MB."""
    here = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", textwrap.dedent(MEMORY), wanted]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": here}, check=False)
    assert done.returncode == 0, done.stderr
    seen, grown, found = done.stdout.split()
    assert (int(seen), found) == (100_000, tier)
    assert int(grown) < 100 * 10**6


@pytest.fixture
def data(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    """Write images of several sizes, one of them twice."""
    folder = make_images(tmp_path / "data", {"ash": 10, "birch": 12}, side=50)
    for number in range(3):
        image = Image.effect_noise((300 + 10 * number, 200), 60).convert("RGB")
        image.save(folder / "ash" / f"{number}.png")
        image.resize((20, 30)).save(folder / "birch" / f"{number}.png")
    (folder / "ash" / "again.png").write_bytes((folder / "ash" / "0.png").read_bytes())
    return folder


def test_runs_end_in_the_same_weights_whatever_the_tier(recipe: Make, tmp_path: Path) -> None:
    varied = {
        "augment": {"erasing": 0.5, "mixup": 0.2, "policy": "trivialaugment"},
        "train": {"sampling": "balanced", "head_start": "random"},
    }
    for tier in tiers.TIERS:
        result = train(recipe("finetune", run={"sources": tier}, **varied), tmp_path / tier)
        assert result.facts["sources"]["tier"] == tier
    for tier in tiers.TIERS[1:]:
        assert_same_weights(tmp_path / "device", tmp_path / tier)
        assert metrics(tmp_path / "device") == metrics(tmp_path / tier)


@pytest.mark.parametrize("tier", ["device", "disk"])
def test_a_resumed_run_ends_in_the_weights_of_an_uninterrupted_one(recipe: Make, tmp_path: Path, tier: str) -> None:
    made = recipe("finetune", run={"sources": tier})
    with pytest.raises(Stopped) as stopped:
        train(made, tmp_path / "run", observer=StopAfter("epoch 2", 9))
    threads = [thread.name for thread in threading.enumerate()]
    assert "stage" not in threads, f"also while {stopped} has frames of the loop"
    train(made, tmp_path / "run", resume=True)
    train(made, tmp_path / "undisturbed")
    assert_same_weights(tmp_path / "run", tmp_path / "undisturbed")


def test_kept_activations_of_views_of_the_device_are_their_own(recipe: Make, tmp_path: Path) -> None:
    """Their pixels differ by rounding from those that threads draw, so neither may be found for the other."""
    partly = {"model": {"freeze": "last-stage"}, "features": {"views": 2}, "train": {"head_start": "random"}}
    cached = []
    for tier in ("auto", "device", "pinned"):
        observer = StopAfter("", 0)
        train(recipe("finetune", run={"sources": tier}, **partly), tmp_path / tier, observer=observer)
        note = next(note for note in observer.notes if note.startswith("the activations"))
        cached.append(note.partition("images, ")[2])
    assert cached[0] == cached[1] != cached[2], cached
    assert_same_weights(tmp_path / "device", tmp_path / "pinned")


def test_a_large_step_is_read_in_parts(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = device_views.RandomViews.__call__

    def views(self: Any, batch: Any, drawn: Any) -> torch.Tensor:
        sizes.append(len(drawn))
        return real(self, batch, drawn)

    monkeypatch.setattr(device_views.RandomViews, "__call__", views)
    made = recipe("finetune", run={"sources": "disk"}, train={"head_start": "random"})
    train(made, tmp_path / "whole")
    images = sum(sizes) // 2  # of an epoch
    steps = -(-images // 8)
    assert len(sizes) == 2 * steps, "each step is read at once"
    assert max(sizes) == -(-images // steps) > 3
    sizes.clear()
    for limit in ("LEAST_BYTES", "MOST_BYTES"):
        monkeypatch.setattr(device_views, limit, 3 * 3 * 96 * 96)  # three images
    train(made, tmp_path / "parts")
    assert max(sizes) == 3
    assert_same_weights(tmp_path / "whole", tmp_path / "parts")


def test_a_plan_says_where_images_will_lie(recipe: Make, tmp_path: Path) -> None:
    assert plan(recipe("finetune"), tmp_path / "run").sources is None
    planned = plan(recipe("finetune", run={"sources": "pinned"}), tmp_path / "run").sources
    assert planned is not None
    assert planned.startswith("drawn on the device from images in host memory, ")


@pytest.mark.parametrize(
    ("mode", "tier", "sections", "words"),
    [
        ("freeze", "device", {}, "run.sources: device has no effect with mode: freeze"),
        ("finetune", "threads", {"model": {"freeze": "head"}, "features": {"views": 1}},
         "run.sources: threads has no effect with features.views: 1"),
        ("finetune", "disk", {"data": {"keep_images": False}}, "run.sources: disk contradicts data.keep_images: false"),
    ],
)  # fmt: skip
def test_a_tier_that_makes_no_sense_is_refused(
    recipe: Make, mode: str, tier: str, sections: dict[str, Any], words: str
) -> None:
    with pytest.raises(RecipeError, match=words):
        recipe(mode, run={"sources": tier}, **sections).resolve()

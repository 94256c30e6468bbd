"""Whole runs on the GPU: near to those on a CPU, the same again, and what they report is what predict gives."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from whole_runs import StopAfter, assert_same_weights, final_weights, metrics

from cnn_tl.core.errors import DivergedError, Stopped
from cnn_tl.core.progress import Observer
from cnn_tl.heads import HEADS
from cnn_tl.training.result import TrainResult

pytestmark = pytest.mark.gpu

Run = Callable[..., TrainResult]
Sections = dict[str, dict[str, Any]]

MODES: dict[str, tuple[str, Sections]] = {
    "freeze": ("freeze", {}),
    "freeze, bf16": ("freeze", {"run": {"precision": "bf16"}}),
    "freeze, any": ("freeze", {"run": {"precision": "auto"}}),
    "freeze, views": ("freeze", {"features": {"views": 3}}),
    "finetune": ("finetune", {}),
    "finetune, bf16": ("finetune", {"run": {"precision": "bf16"}}),
    "finetune, any": ("finetune", {"run": {"precision": "auto"}}),
    "last stage": ("finetune", {"model": {"freeze": "last-stage"}}),
    "last stage, bf16": ("finetune", {"model": {"freeze": "last-stage"}, "run": {"precision": "bf16"}}),
    "lp-ft": ("lp-ft", {}),
    "auto": ("auto", {}),
    "scratch": ("scratch", {}),
}
SETTINGS: dict[str, Sections] = {
    "sgd": {"train": {"optimizer": "sgd", "lr": 0.01}},
    "lamb": {"train": {"optimizer": "lamb"}},
    "layer decay": {"train": {"layer_decay": 0.7}},
    "average": {"train": {"ema": 0.9}},
    "focal": {"train": {"loss": "focal", "class_weights": "balanced"}},
    "clipped": {"train": {"clip_grad": 0.1}},
    "parts": {"train": {"micro_batch": 3}},
    "steps": {"train": {"steps": 9, "epochs": None}},
    "moving statistics": {"model": {"bn": "train"}},
    "last stage": {"model": {"freeze": "last-stage"}},
    "last stage, fresh views": {"model": {"freeze": "last-stage"}, "features": {"views": "fresh"}},
    "unfreezing": {"model": {"freeze": "head", "unfreeze": ["last-stage", "all"]}, "train": {"epochs": 3}},
    "unfreezing, sgd": {
        "model": {"freeze": "head", "unfreeze": ["last-stage", "all"]},
        "train": {"epochs": 3, "optimizer": "sgd", "lr": 0.01},
    },
    "mixed": {"augment": {"mixup": 0.4, "cutmix": 1.0}},
    "light and erasing": {"augment": {"color": 0.8, "erasing": 0.5}},
    "trivialaugment": {"augment": {"policy": "trivialaugment"}},
    "randaugment": {"augment": {"policy": "randaugment"}},
    "nothing kept": {"data": {"keep_images": False}},
    "bf16": {"run": {"precision": "bf16"}},
}


@pytest.mark.parametrize("name", MODES)
def test_predict_gives_what_the_run_reports(run: Run, cli: Any, photos: Path, device: str, name: str) -> None:
    mode, sections = MODES[name]
    result = run("run", mode, **sections)
    assert mode == "scratch" or result.correct / result.images > 0.5, "a guess is right in 40%"
    reported = {row["file"]: row for row in map(json.loads, (result.run / "validation.jsonl").read_text().splitlines())}
    assert sum(row["predicted"] == row["label"] for row in reported.values()) == result.correct
    outcome = cli("predict", result.run, photos, "--json", "--device", device)
    assert outcome.code == 0, outcome.err
    answers = {str(Path(row["file"]).relative_to(photos)): row for row in json.loads(outcome.out)}
    precision = sections.get("run", {}).get("precision", "fp32")
    rounding = 1e-3 if precision == "fp32" else 0.02  # a batch of another size takes other kernels
    for file, row in reported.items():
        assert answers[file]["label"] == row["predicted"]
        assert answers[file]["probability"] == pytest.approx(row["probability"], abs=rounding)


@pytest.mark.parametrize("name", ["finetune", "last stage", "lp-ft", "scratch"])
def test_near_to_a_run_on_the_cpu(run: Run, name: str) -> None:
    """The boxes, flips, orders and dropouts are the same; pixels and sums are rounded in other ways."""
    mode, sections = MODES[name]
    settings = {"train": {"optimizer": "sgd", "lr": 0.01, "epochs": 2, "batch_size": 8}}
    here = metrics(run("gpu", mode, **sections, **settings).run)
    there = metrics(run("cpu", mode, **sections, **settings, run={"device": "cpu"}).run)
    assert [row["step"] for row in here] == [row["step"] for row in there]
    for ours, theirs in zip(here, there, strict=True):
        for name in ("loss", "val_loss"):
            assert ours.get(name, 0) == pytest.approx(theirs.get(name, 0), rel=0.05, abs=0.02)


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_is_the_one_that_is_fitted_on_a_cpu(run: Run, kind: str) -> None:
    one = run("gpu", "freeze", head={"kind": kind})
    other = run("cpu", "freeze", head={"kind": kind}, run={"device": "cpu"})
    here, there = (
        [json.loads(line) for line in (result.run / "validation.jsonl").read_text().splitlines()]
        for result in (one, other)
    )
    assert [row["predicted"] for row in here] == [row["predicted"] for row in there]
    assert [row["probability"] for row in here] == pytest.approx([row["probability"] for row in there], abs=0.01)


@pytest.mark.parametrize("name", SETTINGS)
def test_deterministic_runs_resume_to_the_bit(run: Run, tmp_path: Path, name: str) -> None:
    sections = SETTINGS[name] | {"run": {"deterministic": True, "precision": "fp32"} | SETTINGS[name].get("run", {})}
    more = sections | {"run": sections["run"] | {"workers": 3}}
    with pytest.raises(Stopped):
        run("stopped", observer=StopAfter("epoch 2", 1), **sections)
    run("stopped", resume=True, **more)
    run("undisturbed", **sections)
    assert_same_weights(tmp_path / "stopped", tmp_path / "undisturbed")
    assert metrics(tmp_path / "stopped") == metrics(tmp_path / "undisturbed")


@pytest.mark.parametrize("tier", ["pinned", "disk", "decode"])
def test_where_sources_lie_changes_no_bit(run: Run, tmp_path: Path, tier: str) -> None:
    settings: Sections = {"augment": {"color": 0.3, "mixup": 0.2}}
    for sources in ("device", tier):
        how = {"deterministic": True, "precision": "fp32", "sources": sources}
        run(sources, **settings, run=how)
    assert_same_weights(tmp_path / "device", tmp_path / tier)
    assert metrics(tmp_path / "device") == metrics(tmp_path / tier)


def test_frozen_stays_frozen_and_the_rest_moves(run: Run, tiny_weights: Path) -> None:
    from safetensors.torch import load_file

    before, after = load_file(tiny_weights), final_weights(run("run", model={"freeze": "last-stage"}).run)
    kept = [name for name in after if name in before and not name.startswith(("layer4", "fc"))]
    assert kept
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert not torch.equal(before["layer4.0.conv1.weight"], after["layer4.0.conv1.weight"])


def test_a_later_run_finds_the_features_of_the_first(run: Run) -> None:
    first, second = run("first", "freeze"), run("second", "freeze")
    assert first.facts["features"]["computed"] > 0
    assert second.facts["features"]["computed"] == 0
    assert_same_weights(first.run, second.run)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_diverges_says_at_which_step_and_saves_nothing_of_it(
    run: Run, tmp_path: Path, precision: str
) -> None:
    wild = {"optimizer": "sgd", "lr": 100.0, "epochs": 20, "warmup": 0.0, "clip_grad": 1e9, "batch_size": 8}
    sections: Sections = {"train": wild, "run": {"precision": precision}}
    with pytest.raises(DivergedError, match=r"step \d+"):
        run("run", **sections)
    from safetensors.torch import load_file

    saved = list((tmp_path / "run").rglob("*.safetensors"))
    for path in saved:
        assert all(tensor.isfinite().all() for tensor in load_file(path).values() if tensor.is_floating_point())


class Notes(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_batch_that_memory_does_not_hold_is_halved(run: Run, device: str) -> None:
    """The limit leaves room for a few images of 224 px, and for all else that a run keeps on the device."""
    if device != "cuda":
        pytest.skip("only CUDA can be given less memory")
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 192 * 2**20) / whole)
    try:
        observer = Notes()
        sections: Sections = {
            "train": {"batch_size": 48, "epochs": 1, "head_start": "random"}, "model": {"image_size": 320},
        }  # fmt: skip
        result = run("run", observer=observer, **sections)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert any("out of memory: the images of a step pass" in note for note in observer.notes)
    assert 0 < result.facts["micro_batch"] < 48


def test_what_a_run_took_of_the_gpu_it_gives_back(run: Run, device: str) -> None:
    """A notebook trains again and again."""
    if device != "cuda":
        pytest.skip("counts the memory of CUDA")
    run("first")
    gc.collect()
    before, random = torch.cuda.memory_allocated(), torch.cuda.get_rng_state()
    for name in ("second", "third"):
        run(name, augment={"mixup": 0.2})
    gc.collect()
    assert torch.cuda.memory_allocated() <= before + 2**20
    assert torch.equal(torch.cuda.get_rng_state(), random), "the caller's random numbers"


def test_a_step_does_not_wait_for_the_gpu(run: Run, device: str) -> None:
    """Four times the steps of an epoch, and hardly more waits: those at its end, and of a loss now and then."""
    if device != "cuda":
        pytest.skip("counts the waits of CUDA")
    run("warm")
    waits = {}
    for size in (8, 2):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run(f"by-{size}", train={"batch_size": size, "epochs": 2})
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits[size] = [
            one for one in told
            if "synchronizing CUDA operation" in str(one.message) and not one.filename.endswith("device_limit.py")
        ]  # fmt: skip
    more = {f"{one.filename}:{one.lineno}" for one in waits[2]}
    assert len(waits[2]) - len(waits[8]) < 10, sorted(more)  # in 36 more steps


@pytest.mark.skipif(os.name == "nt", reason="torchrun as here is that of Unix")
@pytest.mark.parametrize(
    ("mode", "more"),
    [
        ("finetune", ["--set", "augment.mixup=1", "--set", "augment.cutmix=1"]),
        ("lp-ft", ["--set", "train.micro_batch=2"]),
    ],
)
def test_two_processes_on_one_gpu_do_what_one_does(
    photos: Path, tiny_weights: Path, tmp_path: Path, device: str, cli: Any, mode: str, more: list[str]
) -> None:
    words = ["train", photos, "--mode", mode, "--model", "test_resnet", "--weights", tiny_weights, "--image-size", 64]
    words += ["--device", device, "--epochs", 2, "--batch-size", 8, "--lr", 0.001, "--set", "model.bn=eval"]
    words += ["--set", "run.precision=fp32", *more, "--output"]
    by = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "cnn_tl"]
    done = subprocess.run(
        [*by, *map(str, words), str(tmp_path / "two")], capture_output=True, text=True, timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert cli(*words, tmp_path / "one").code == 0
    for mine, theirs in zip(metrics(tmp_path / "one"), metrics(tmp_path / "two"), strict=True):
        assert mine.get("loss", 0) == pytest.approx(theirs.get("loss", 0), abs=1e-4)
        assert mine["val_loss"] == pytest.approx(theirs["val_loss"], abs=1e-4)
    for name, tensor in final_weights(tmp_path / "one").items():
        torch.testing.assert_close(final_weights(tmp_path / "two")[name], tensor, atol=1e-3, rtol=1e-2)

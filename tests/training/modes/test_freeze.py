"""Mode freeze on this machine and on others: what is remembered is repaired, and never trusted blindly."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from cnn_tl.cache import housekeeping
from cnn_tl.core.progress import Observer
from cnn_tl.features import devices
from cnn_tl.features.devices import Device
from cnn_tl.features.embedding import prepared_embedder
from cnn_tl.heads import HEADS
from cnn_tl.networks.backbone import Network
from cnn_tl.networks.graph.session import OUTPUT
from cnn_tl.networks.graph.trace import NoGraphError
from cnn_tl.recipe import Recipe
from cnn_tl.training import backbone_graph, lazy_network
from cnn_tl.training.lazy_network import PreparedEngine
from cnn_tl.training.modes import embedding_stats
from cnn_tl.training.result import TrainResult
from cnn_tl.training.run import plan, train

Run = Callable[..., TrainResult]
IMAGES = 20
FP32 = {"precision": "fp32"}


class Listener(Observer):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def data(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    return make_images(tmp_path / "data", {"ash": 10, "birch": 10})


@pytest.fixture
def run(tmp_path: Path, data: Path, tiny_weights: Path) -> Run:
    def go(name: str, observer: Observer | None = None, **sections: Mapping[str, Any]) -> TrainResult:
        tree: dict[str, Any] = {
            "data": {"path": str(data)},
            "model": {"name": "test_resnet", "image_size": 64, "weights": str(tiny_weights)},
        }
        for section, values in sections.items():
            tree[section] = tree.get(section, {}) | values
        return train(Recipe.model_validate(tree), tmp_path / name, observer=observer)

    return go


def facts(result: TrainResult) -> dict[str, Any]:
    found: dict[str, Any] = result.facts["features"]
    return found


def memory(cache: Path) -> Path:
    [file] = cache.glob("networks/*/graph.json")
    return file


def test_features_are_in_float32_on_a_cpu(run: Run) -> None:
    assert facts(run("a"))["way"] == "fp32, onnxruntime"
    again = facts(run("b", run={"precision": "bf16"}))
    assert (again["way"], again["computed"]) == ("fp32, onnxruntime", 0)


def test_a_graph_is_made_once(run: Run, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("a")
    monkeypatch.setattr(backbone_graph, "trace", None)
    housekeeping_of_features(own_cache)
    monkeypatch.setattr("cnn_tl.training.lazy_network._build", None)  # it needs no torch then
    again = run("b")
    assert facts(again)["computed"] == IMAGES
    assert facts(again)["way"] == "fp32, onnxruntime"


def housekeeping_of_features(cache: Path) -> None:
    shutil.rmtree(cache / "features")


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"?"), lambda file: file.unlink()])
def test_a_graph_that_is_damaged_is_made_again(run: Run, own_cache: Path, damage: Callable[[Path], Any]) -> None:
    first = run("a")
    [graph] = own_cache.glob("networks/*/graph.onnx")
    whole = graph.read_bytes()
    damage(graph)
    housekeeping_of_features(own_cache)
    again = run("b")
    assert graph.read_bytes() == whole
    assert (again.run / "validation.jsonl").read_text() == (first.run / "validation.jsonl").read_text()


def test_a_graph_that_ships_serves_later_runs_too(run: Run, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a default backbone with the user's own weights."""
    run("a")
    [graph] = own_cache.glob("networks/*/graph.onnx")
    content = graph.read_bytes()
    graph.unlink()
    monkeypatch.setattr("cnn_tl.training.lazy_network.shipped.graph_for", lambda *about: content)
    monkeypatch.setattr(backbone_graph, "trace", None)
    monkeypatch.setattr("cnn_tl.training.lazy_network._build", None)
    assert facts(run("b"))["computed"] == 0


def test_a_graph_of_another_onnxruntime_is_made_again(run: Run, own_cache: Path) -> None:
    run("a")
    before = memory(own_cache).read_text()
    memory(own_cache).write_text(json.dumps(json.loads(before) | {"onnxruntime": "1.0"}))
    run("b")
    assert memory(own_cache).read_text() == before


@pytest.mark.parametrize(
    ("target", "value", "words"),
    [
        ("trace", lambda network: (_ for _ in ()).throw(NoGraphError("no such operator")), "no such operator"),
        ("LARGEST_DIFFERENCE", -1.0, "onnxruntime's features differ"),
        ("CLEARLY", 1e9, "times as fast as onnxruntime here"),
    ],
)
def test_torch_computes_where_onnxruntime_cannot(
    run: Run, own_cache: Path, monkeypatch: pytest.MonkeyPatch, target: str, value: Any, words: str
) -> None:
    """A model that does not export, or gives other features, or is faster in torch: the plan says why."""
    expected = run("a")
    housekeeping.clear(own_cache)
    monkeypatch.setattr(backbone_graph, target, value)
    found = run("b")
    assert words in facts(found)["way"]
    assert facts(found)["computed"] == IMAGES
    assert found.accuracy == expected.accuracy
    assert not list(own_cache.glob("networks/*/graph.onnx"))
    monkeypatch.setattr(backbone_graph, "trace", None)  # the reason is remembered
    assert facts(run("c"))["way"] == facts(found)["way"]


def test_one_slow_pass_on_a_busy_machine_is_no_reason_for_torch(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's first pass seems to take 1 s and onnxruntime's 9; measured again, the latter takes 1 s too."""
    seconds = iter([1.0, 9.0, *[2.0, 1.0] * backbone_graph.REPETITIONS])
    monkeypatch.setattr(backbone_graph, "_seconds", lambda outputs, pixels: next(seconds))
    assert facts(run("a"))["way"] == "fp32, onnxruntime"
    assert next(seconds) == 2.0, "the first repetition decided"


def out_of_bounds(graph: onnx.GraphProto) -> None:
    [last] = [node for node in graph.node if OUTPUT in node.output]
    last.output[0] = "whole"
    graph.initializer.append(onnx.numpy_helper.from_array(np.full(96, 999), "beyond"))
    graph.node.append(onnx.helper.make_node("Gather", ["whole", "beyond"], [OUTPUT], axis=1))


def twice_as_wide(graph: onnx.GraphProto) -> None:
    [last] = [node for node in graph.node if OUTPUT in node.output]
    last.output[0] = "half"
    graph.node.append(onnx.helper.make_node("Concat", ["half", "half"], [OUTPUT], axis=1))
    graph.output[0].type.tensor_type.shape.dim[1].dim_value *= 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (out_of_bounds, "onnxruntime cannot run this backbone: [ONNXRuntimeError]"),
        (twice_as_wide, "onnxruntime gives features of shape [2, 192] for [2, 96]"),
    ],
)
def test_torch_computes_where_the_graph_fails_only_when_it_runs(
    run: Run, monkeypatch: pytest.MonkeyPatch, change: Callable[[onnx.GraphProto], None], words: str
) -> None:
    def trace(network: Network, known: Callable[[Network], bytes] = backbone_graph.trace) -> bytes:
        model = onnx.load_from_string(known(network))
        change(model.graph)
        return bytes(model.SerializeToString())

    monkeypatch.setattr(backbone_graph, "trace", trace)
    found = facts(run("a"))
    assert words in found["way"]
    assert found["computed"] == IMAGES


def test_a_remembered_gpu_that_is_gone(run: Run, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept under the name of a device that did not compute it."""
    monkeypatch.setattr("cnn_tl.training.modes.backend.may_be_gpu", lambda wanted: True)
    monkeypatch.setattr("cnn_tl.training.lazy_network.may_be_gpu", lambda wanted: True)
    run("a")
    [folder] = own_cache.glob("networks/*")
    devices.remember(folder, "auto", Device("cuda", "cuda (Pretend)", "bf16"))
    listener = Listener()
    again = run("b", listener)
    assert any("not the remembered one" in note for note in listener.notes)
    assert facts(again)["computed"] == 0
    assert facts(again)["device"].startswith("cpu")
    cards = [json.loads(path.read_text()) for path in own_cache.glob("features/*/space.json")]
    assert {card["facts"]["device"] for card in cards} == {"cpu"}


def test_an_engine_that_is_prepared_gives_the_features(
    run: Run, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a first run on CUDA has one."""
    monkeypatch.setattr(backbone_graph, "CLEARLY", 1e9)  # torch computes
    prepared: list[PreparedEngine] = []

    def prepare(_: object, network: Network) -> PreparedEngine:
        prepared.append(PreparedEngine("fp32", prepared_embedder(network, torch.device("cpu"), "fp32", 16)))
        return prepared[0]

    expected = run("a", run=FP32)
    housekeeping.clear(own_cache)
    monkeypatch.setattr(lazy_network, "_prepare_engine", prepare)
    found = run("b", run=FP32)
    assert (facts(found)["computed"], found.accuracy) == (IMAGES, expected.accuracy)
    assert prepared[0].engine.seconds > 0
    again = run("c", run=FP32, features={"cache": False})  # nothing is kept, so it is a first run
    assert (facts(again)["computed"], len(prepared)) == (IMAGES, 2)


def test_copies_pass_the_network_once(run: Run, data: Path) -> None:
    for number in range(5):
        shutil.copy(data / "ash" / "0.png", data / "ash" / f"copy {number}.png")
        shutil.copy(data / "birch" / "0.png", data / "birch" / f"copy {number}.png")
    first = run("a", run=FP32, features={"cache": False})  # both parts share the space
    assert facts(first)["computed"] == IMAGES
    assert first.images > 0
    again = run("b", run=FP32)
    assert (again.run / "validation.jsonl").read_text() == (first.run / "validation.jsonl").read_text()


def test_copies_of_a_broken_image_are_broken(run: Run, data: Path) -> None:
    whole = (data / "ash" / "0.png").read_bytes()
    for name in ("broken 1.png", "broken 2.png", "broken 3.png"):
        (data / "ash" / name).write_bytes(whole[: len(whole) // 2])
    listener = Listener()
    result = run("a", listener)
    assert len(listener.warnings) == 3
    assert facts(result)["computed"] == IMAGES
    assert all(f"broken {number}.png" in warning for number, warning in enumerate(sorted(listener.warnings), 1))


def test_workers_beyond_the_cores_add_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_stats, "default_workers", lambda: 2)
    done = embedding_stats.EmbeddingStats(rows=100, decode_seconds=10.0, forward_seconds=1.0, seconds=1.0)
    rates = [done.rates(workers)["decode_images_per_second"] for workers in (1, 2, 32)]
    assert rates == [10, 20, 20]


@pytest.mark.parametrize("kept", [True, False])
def test_what_is_lost_during_the_fit_is_computed_again(
    run: Run, own_cache: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    """Somebody empties the cache, or another run needs the room, while this one fits its head."""
    first = run("a")
    fit = HEADS["auto"]

    def robbed(problem: Any, settings: Any) -> Any:
        housekeeping.clear(own_cache)
        fitted = fit(problem, settings)
        housekeeping.clear(own_cache)
        return fitted

    monkeypatch.setitem(HEADS, "auto", robbed)
    if not kept:
        monkeypatch.setattr("cnn_tl.cache.eviction.Eviction.make_room", lambda self, nbytes: "there is no room")
    listener = Listener()
    again = run("b", listener)
    assert sum("has lost" in note for note in listener.notes) == 2
    assert listener.warnings == []
    assert (again.run / "validation.jsonl").read_text() == (first.run / "validation.jsonl").read_text()
    assert again.facts["frozen_sha256"] == first.facts["frozen_sha256"]


@pytest.mark.parametrize("mode", ["freeze", "finetune", "lp-ft"])
def test_a_dry_run_leaves_no_trace(
    run: Run, data: Path, tiny_weights: Path, tmp_path: Path, own_cache: Path, mode: str
) -> None:
    def look() -> dict[Path, float]:
        model = {"name": "test_resnet", "image_size": 64, "weights": str(tiny_weights)}
        recipe = Recipe.model_validate({"mode": mode, "data": {"path": str(data)}, "model": model})
        plan(recipe, tmp_path / "planned")
        return {path: path.stat().st_mtime for path in tmp_path.rglob("*")}

    before = {path: path.stat().st_mtime for path in tmp_path.rglob("*")}
    assert look() == before
    run("a")
    for path in sorted(own_cache.rglob("*")):
        os.utime(path, (10**9, 10**9))
    before = {path: path.stat().st_mtime for path in tmp_path.rglob("*")}
    assert look() == before


def test_remembered_networks_keep_to_the_budget(run: Run, data: Path, own_cache: Path) -> None:
    """The network, 1.9 MB, is larger than the budget; what is small enough is kept, and found by the next run."""
    small = {"features": {"budget_gb": 0.001}, "run": FP32}
    listener = Listener()
    assert facts(run("a", listener, **small))["computed"] == IMAGES
    assert any("the network's description is not cached: " in note and "budget" in note for note in listener.notes)
    assert facts(run("b", **small))["computed"] == 0
    assert housekeeping.info(own_cache).nbytes < 1_000_000


def test_another_network_takes_the_place_of_an_older_one(run: Run, own_cache: Path) -> None:
    fits_one = {"features": {"budget_gb": 0.003}, "run": FP32}
    for number, side in enumerate((64, 96)):
        assert facts(run(f"a{number}", model={"image_size": side}, **fits_one))["computed"] == IMAGES
        assert len(housekeeping.info(own_cache).networks) == 1
    assert facts(run("b", model={"image_size": 96}, **fits_one))["computed"] == 0
    assert housekeeping.info(own_cache).nbytes <= 3_000_000


def test_a_cache_that_may_only_be_read_is_enough(run: Run, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that others share: times cannot be set there."""
    first = run("a")

    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr("cnn_tl.training.lazy_network._build", refuse)
    again = run("b")
    assert facts(again)["computed"] == 0
    assert (again.run / "validation.jsonl").read_text() == (first.run / "validation.jsonl").read_text()

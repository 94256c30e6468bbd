"""An exported file says of an image what the model says: the same verdict, set and distance."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_heads import SPECS, tensors_of

from cnn_tl.abstention.distance import FeatureDistance
from cnn_tl.abstention.distance_fit import fit_with_held_out
from cnn_tl.abstention.evidence import Evidence
from cnn_tl.core import files, telemetry
from cnn_tl.core.errors import ArtefactError, UsageError
from cnn_tl.exporting import distance_graph, parity
from cnn_tl.exporting.distance_graph import add_distance
from cnn_tl.exporting.export import export
from cnn_tl.exporting.options import Options
from cnn_tl.features.headed_engine import HeadedEngine
from cnn_tl.inference.classifier import Answer
from cnn_tl.inference.loading import load
from cnn_tl.networks import bundle
from cnn_tl.networks.onnx_model import OnnxModel

KNOWN = 80


def pictures(count: int, *, seed: int) -> NDArray[np.uint8]:
    """Return images of one colour with a little noise."""
    chance = np.random.default_rng(seed)
    colours, noise = chance.integers(0, 200, (count, 1, 1, 3)), chance.integers(0, 56, (count, 48, 48, 3))
    return (colours + noise).astype(np.uint8)


@pytest.fixture(scope="module")
def evidence(graph_folder: Path) -> Evidence:
    """Evidence of the tiny network on such images; it is wrong where it is least sure."""
    features = HeadedEngine.of(bundle.read(graph_folder)).backbone.start(pictures(KNOWN, seed=0))
    labels = np.arange(KNOWN) % 2
    sureness = np.linspace(3, 0, KNOWN)[:, None]
    logits = sureness * np.where(np.arange(KNOWN) < 64, 1, -1)[:, None] * np.eye(2)[labels]
    distance, distances = fit_with_held_out(features, labels, 2)
    return Evidence.of("training", logits, labels, distances, distance)


@pytest.fixture(params=[*SPECS, "in torch", "nothing known"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, graph_folder: Path, evidence: Evidence) -> Path:
    """A bundle under a head of each kind; one without a graph, as of a fine-tuned network; one without evidence."""
    about, config, kind = bundle.read(graph_folder), bundle.read_config(graph_folder), request.param
    in_torch, head = kind == "in torch", kind if kind in SPECS else "linear"
    tensors = {**about.backbone, **{f"fc.{name}": array for name, array in tensors_of(head).items()}}
    known = None if kind == "nothing known" else replace(evidence, source="validation") if in_torch else evidence
    bundle.save(
        tmp_path / "model", tensors, config, classes=about.classes, preprocessing=about.preprocessing, facts={},
        head=SPECS[head], graph=None if in_torch else about.graph, classifier="fc", evidence=known,
    )  # fmt: skip
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def few_random_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnn_tl.exporting.comparison_images.RANDOM_IMAGES", 8)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Eight images like the known ones, and two that are not."""
    foreign = [np.full((48, 48, 3), 0, np.uint8), np.full((48, 48, 3), (0, 0, 255), np.uint8)]
    paths = [tmp_path / f"{number}.png" for number in range(10)]
    for path, pixels in zip(paths, [*pictures(8, seed=1), *foreign], strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def answers(source: Path, images: list[Path], **promises: float) -> list[Answer]:
    return list(load(source, device="cpu").predict(images, top=2, **promises))


@pytest.mark.parametrize("preprocess", ["inside", "none"])
def test_the_file_judges_as_the_run_does(folder: Path, images: list[Path], preprocess: Any) -> None:
    done = export(folder, folder.parent / "model.onnx", options=Options(preprocess=preprocess))
    known = bundle.describe(folder).evidence is not None
    for promises in ({}, {"unknown": 0.01}, {"max_error": 0.2, "unknown": 0.05}) if known else ({},):
        expected, found = (answers(source, images, **promises) for source in (folder, done.path))
        assert [(one.label, one.verdict, one.set) for one in found] == [
            (one.label, one.verdict, one.set) for one in expected
        ]
        assert {one.verdict for one in found} >= ({"answered", "unknown"} if known else {None})
        if known:
            distances = [[one.distance for one in all_of_them] for all_of_them in (found, expected)]
            np.testing.assert_allclose(*distances, rtol=1e-4)
            assert all(one.set for one in found)
        else:
            assert {(one.set, one.distance) for one in found} == {(None, None)}
    largest = done.largest("prepared")
    assert largest is not None
    if known:
        assert largest.distance_difference is not None
        assert largest.distance_difference < 1e-5
    else:
        assert largest.distance_difference is None
        with pytest.raises(UsageError, match=r"^--unknown: the model keeps no held-out answers"):
            answers(done.path, images, unknown=0.01)


@pytest.fixture
def with_distance(graph_run: Path, evidence: Evidence) -> Path:
    """Return a run whose bundle has a graph and evidence."""
    about, config = bundle.read(graph_run), bundle.read_config(graph_run / "model")
    shutil.rmtree(graph_run / "model")
    bundle.save(
        graph_run / "model", about.tensors, config, classes=about.classes, preprocessing=about.preprocessing, facts={},
        graph=about.graph, classifier="fc", evidence=evidence,
    )  # fmt: skip
    return graph_run


def test_another_distance_leaves_no_file(with_distance: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(network: onnx.ModelProto, distance: FeatureDistance) -> None:
        add_distance(network, replace(distance, scale=distance.scale * 1.03))

    monkeypatch.setattr("cnn_tl.exporting.onnx_graph.add_distance", wrong)
    with pytest.raises(ArtefactError, match=r"on prepared images in batches of 1 distances differ by up to 0\.0"):
        export(with_distance)
    assert not list(with_distance.glob("*.onnx*"))


@pytest.mark.parametrize(("wrong", "holds"), [(1.00005, True), (1.006, False), (np.nan, False)])
def test_distances_are_compared_beside_the_logits(wrong: float, holds: bool) -> None:
    expected = np.array([[4, 0, 0.5], [0, 4, 30.0]], np.float32)
    found = expected * np.array([1, 1, wrong], np.float32)
    agreement = parity._agreement("prepared", 1, 2, expected, found)
    assert (agreement.largest_difference, agreement.top1, agreement.holds) == (0, 1, holds)
    without = parity._agreement("prepared", 1, 2, expected, found[:, :2])
    assert (without.distance_difference, without.holds) == (None, True)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_lower_precision_keeps_the_distance(with_distance: Path, precision: Any) -> None:
    before = export(with_distance, with_distance / "fp32.onnx")
    options = Options(precision=precision, max_drop=100, min_agreement=0)
    after = export(with_distance, with_distance / "lower.onnx", options=options)
    assert after.cost is not None
    assert after.cost.unknown_before is not None
    exact, lower = (OnnxModel.open(done.path) for done in (before, after))
    pixels = pictures(20, seed=2)
    assert np.median(np.abs(lower(pixels)[:, -1] / exact(pixels)[:, -1] - 1)) < 0.15
    network = onnx.load(after.path)
    own = [tensor for tensor in network.graph.initializer if tensor.name.startswith(distance_graph.PREFIX)]
    assert len(own) == 7
    assert {tensor.data_type for tensor in own} == {onnx.TensorProto.FLOAT}
    assert exact.session.get_outputs()[-1].name == lower.session.get_outputs()[-1].name == "distance"
    assert exact.session.get_outputs()[-1].type == "tensor(float)"


def test_outputs_are_those_that_were_asked_for(with_distance: Path, images: list[Path]) -> None:
    def exported(*outputs: Any) -> OnnxModel:
        done = export(with_distance, options=Options(outputs=outputs or None))
        return OnnxModel.open(done.path)

    def names(model: OnnxModel) -> list[str]:
        return [one.name for one in model.session.get_outputs()]

    assert names(exported()) == ["probabilities", "logits", "distance"]
    assert names(exported("distance", "logits")) == ["distance", "logits"]
    without = exported("logits")
    assert names(without) == ["logits"]
    assert without.thresholds is not None
    assert without.thresholds.limits == ()
    assert {one.verdict for one in answers(without.path, images)} == {"answered"}
    with pytest.raises(UsageError, match="--unknown: this model does not measure distances"):
        answers(without.path, images, unknown=0.01)


def test_a_distance_that_is_not_known_cannot_be_asked_for(graph_run: Path) -> None:
    with pytest.raises(UsageError, match="does not measure distances; leave it out"):
        export(graph_run, options=Options(outputs=("logits", "distance")))


def test_torch_gives_the_distance_if_asked(with_distance: Path) -> None:
    import torch

    plain = torch.export.load(str(export(with_distance, format="torch").path)).module()
    x_NCHW = torch.randn(3, 3, 48, 48)
    assert plain(x_NCHW).shape == (3, 2)
    done = export(with_distance, format="torch", options=Options(outputs=("logits", "distance")))
    extra = {"cnn_tl.json": ""}
    logits, distances = torch.export.load(str(done.path), extra_files=extra).module()(x_NCHW)
    expected = load(with_distance, device="cpu").engine.of_inputs(x_NCHW.numpy())  # type: ignore[union-attr]
    np.testing.assert_allclose(logits.detach(), expected[:, :2], atol=1e-4)
    np.testing.assert_allclose(distances.detach(), expected[:, 2], rtol=1e-4)
    assert json.loads(extra["cnn_tl.json"])["thresholds"]["images"] == KNOWN


def test_timm_takes_the_evidence_along(with_distance: Path, images: list[Path]) -> None:
    done = export(with_distance, format="timm")
    assert answers(done.path, images, unknown=0.01) == answers(with_distance, images, unknown=0.01)


def test_other_features_than_those_of_the_evidence(with_distance: Path, evidence: Evidence) -> None:
    assert evidence.distance is not None
    foreign = replace(evidence.distance, means=np.zeros((2, 5), np.float32), axes=np.zeros((0, 5), np.float32))
    arrays = replace(evidence, distance=replace(foreign, weights=np.zeros(0, np.float32))).arrays()
    files.write_arrays(with_distance / "model" / bundle.EVIDENCE, arrays)
    files.write_checksums(with_distance / "model")
    with pytest.raises(ArtefactError, match="5 features, and the network has 96"):
        export(with_distance)


@pytest.mark.parametrize("count", [1, 4])
def test_the_graph_computes_the_distance(count: int) -> None:
    """Also of features that are zero, or much longer than others."""
    chance = np.random.default_rng(0)
    features = chance.normal(size=(60, 8)).astype(np.float32) + 3 * np.eye(8, dtype=np.float32)[np.arange(60) % 3]
    distance, _ = fit_with_held_out(features, np.arange(60) % 3, 3)
    network = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]> n (float[batch, 8] x) => (float[batch, 8] features)'
        "{ features = Identity (x) }"
    )
    add_distance(network, distance)
    onnx.checker.check_model(network, full_check=True)
    session = telemetry.onnxruntime().InferenceSession(network.SerializeToString(), providers=["CPUExecutionProvider"])
    asked = np.concatenate([features * 1000, np.zeros((1, 8)), chance.normal(size=(3, 8))])[-count:].astype(np.float32)
    [found] = session.run(["distance"], {"x": asked})
    np.testing.assert_allclose(found, distance(asked), rtol=1e-5)
    assert found.shape == (count,)

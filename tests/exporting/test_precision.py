"""Fewer bits: what is calibrated, what is measured, and that nothing is left of what loses too much."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, DataError, UsageError
from cnn_tl.data.manifest import Manifest
from cnn_tl.exporting import precision, precision_cost
from cnn_tl.exporting.export import export
from cnn_tl.exporting.options import Options
from cnn_tl.exporting.precision_cost import Cost
from cnn_tl.inference.loading import load
from cnn_tl.networks import bundle
from cnn_tl.recipe.schema import Export

CLASSES = ("blue", "red")


@pytest.fixture(scope="module")
def architecture() -> str:
    return "test_efficientnet"


@pytest.fixture(autouse=True)
def _measured_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_cost, "ENOUGH_SECONDS", 0.0)


def a_cost(right_after: int, images: int = 75) -> Cost:
    return Cost("int8", "", images, 71, right_after, 0.9, 0.1, 4_000, 1_000, 50.0, 100.0)


@pytest.mark.parametrize("name", ["fp16", "int8"])
def test_a_lower_precision(run: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    report = export(run, options=Options(precision=name, max_drop=100, min_agreement=0))
    assert capfd.readouterr() == ("", "")
    assert report.facts["precision"] == name
    found = report.cost
    assert found is not None
    assert (found.precision, found.images) == (name, 10)
    assert found.calibration == ("10 training images" if name == "int8" else "")
    assert found.bytes_after == report.path.stat().st_size < 0.7 * found.bytes_before
    assert min(found.speed_before, found.speed_after) > 0
    assert 0 < found.largest_change <= 1
    assert found.same_answer == report.parity[0].top1 or name == "int8"
    told = files.read_json(run / "model.onnx.json")
    assert told["cost"]["drop"] == found.drop
    assert told["options"]["precision"] == name

    model = onnx.load(report.path)
    onnx.checker.check_model(model, full_check=True)
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert (onnx.TensorProto.INT8 if name == "int8" else onnx.TensorProto.FLOAT16) in kinds
    answers = list(load(report.path).predict(run.parent / "data"))
    assert len(answers) == 20
    assert all(answer.label in CLASSES for answer in answers)


def test_integers_keep_first_and_last_layer_and_seven_bits(run: Path) -> None:
    network, words = precision.eight_bit(onnx_network(run), bundle.load(run))
    assert words == "10 training images"
    weights = [t for t in network.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 4]
    scales = {t.name: t for t in network.graph.initializer}
    assert weights
    for weight in weights:
        assert np.abs(onnx.numpy_helper.to_array(weight).astype(int)).max() <= 64
        assert list(scales[weight.name.replace("_quantized", "_scale")].dims) == [weight.dims[0]]
    producers = {output: node for node in network.graph.node for output in node.output}
    [last] = (node for node in network.graph.node if "logits" in node.output)
    assert "DequantizeLinear" not in {producers[name].op_type for name in last.input[1:] if name in producers}


def test_integers_keep_all_of_a_classifier(run: Path) -> None:
    """Votes of neighbours are exponentials of similarities: in seven bits they lose a tenth of the answers."""
    network = onnx_network(run)
    [last] = (node for node in network.graph.node if "logits" in node.output)
    last.output[0] = "similarity"
    network.graph.node.append(onnx.helper.make_node("MatMul", ["similarity", "votes"], ["logits"], name="vote"))
    votes = np.array([[1, 0.5], [0.5, 1]], np.float32)
    network.graph.initializer.append(onnx.numpy_helper.from_array(votes, "votes"))
    lowered, _ = precision.eight_bit(network, bundle.load(run))
    producers = {output: node for node in lowered.graph.node for output in node.output}
    [vote] = (node for node in lowered.graph.node if "logits" in node.output)
    for node in (vote, producers[vote.input[0]]):
        assert "DequantizeLinear" not in {producers[name].op_type for name in node.input[1:] if name in producers}


def onnx_network(run: Path) -> onnx.ModelProto:
    from cnn_tl.exporting.formats.onnx import network_of

    return network_of(bundle.load(run))


def test_calibration_images_are_chosen_by_content(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "CALIBRATION_IMAGES", 5)
    manifest = Manifest.from_json(files.read_json(run / "manifest.json"))
    chosen = precision.calibration_images(manifest)
    assert [image.label for image in chosen] == [0, 1, 0, 1, 0]
    assert {image.split for image in chosen} == {"train"}
    values = manifest.to_json()
    values["images"] = [[f"moved/{row[0]}", *row[1:]] for row in reversed(values["images"])]
    moved = precision.calibration_images(Manifest.from_json(values))
    assert [image.sha256 for image in moved] == [image.sha256 for image in chosen]


@pytest.mark.parametrize("lost", ["manifest", "training images"])
def test_integers_need_the_training_images(run: Path, lost: str) -> None:
    manifest = Manifest.from_json(files.read_json(run / "manifest.json"))
    if lost == "manifest":
        (run / "manifest.json").unlink()
    else:
        for image in manifest.of("train"):
            manifest.file(image).unlink()
    with pytest.raises(DataError, match="--precision int8 needs the training images"):
        export(run, options=Options(precision="int8"))
    assert not (run / "model.onnx").exists()


def test_half_precision_needs_the_validation_images(run: Path) -> None:
    (run / "manifest.json").unlink()
    with pytest.raises(DataError, match="--precision fp16 needs the validation images"):
        export(run, options=Options(precision="fp16"))
    assert [path.name for path in run.iterdir()] == ["model"]


def test_what_loses_too_much_is_not_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ruined(network: onnx.ModelProto, _: object) -> tuple[onnx.ModelProto, str]:
        for tensor in network.graph.initializer:
            values = onnx.numpy_helper.to_array(tensor)
            if values.ndim == 2:
                tensor.CopyFrom(onnx.numpy_helper.from_array(-values, tensor.name))
        return network, ""

    manifest = Manifest.from_json(files.read_json(run / "manifest.json"))
    truth = iter(load(run).predict([manifest.file(image) for image in manifest.of("val")]))
    values = manifest.to_json()
    labels = {p.path: CLASSES.index(answer.label or "") for p, answer in zip(manifest.of("val"), truth, strict=True)}
    values["images"] = [[row[0], labels.get(row[0], row[1]), *row[2:]] for row in values["images"]]
    files.write_json(run / "manifest.json", values)  # as the model answers, so that it is always right
    monkeypatch.setitem(precision.LOWER, "fp16", ruined)
    with pytest.raises(
        ArtefactError, match=r"fp16 loses .* points: \d+ instead of 10 of 10 validation images"
    ) as caught:
        export(run, options=Options(precision="fp16"))
    assert caught.value.exit_code == 4
    assert sorted(path.name for path in run.iterdir()) == ["manifest.json", "model"]


def bound(max_drop: float, min_agreement: float = 0) -> Export:
    return Export(max_drop=max_drop, min_agreement=min_agreement)


def test_the_bounds_are_in_points_and_the_message_in_images() -> None:
    a_cost(71).require(bound(0))
    a_cost(73).require(bound(0))
    a_cost(70).require(bound(4 / 3))
    with pytest.raises(ArtefactError, match=r"1\.33 points: 70 instead of 71 of 75 .* --max-drop 1 allows 0 fewer"):
        a_cost(70).require(bound(1))
    with pytest.raises(ArtefactError, match=r"--max-drop 3 allows 2 fewer"):
        a_cost(60).require(bound(3))
    a_cost(71).require(bound(0, a_cost(71).same_answer))
    with pytest.raises(ArtefactError, match=r"the answer of fp32 to .* of 75 validation .*-agreement requires 100"):
        a_cost(71).require(bound(0, 1))


def test_a_precision_may_not_call_many_known_images_unknown() -> None:
    cost = replace(a_cost(71), same_answer=1.0, unknown_before=1)
    replace(cost, unknown_after=8).require(bound(0, 0.9))  # 7 of 75 more: less than 10%
    with pytest.raises(ArtefactError, match=r"calls 9 of 75 validation images unknown, fp32 1, .* 90.0% allows 7 more"):
        replace(cost, unknown_after=9).require(bound(0, 0.9))


def test_the_bounds_are_those_of_the_runs_recipe(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Export] = []
    monkeypatch.setattr(precision_cost.Cost, "require", lambda self, bounds: seen.append(bounds))
    export(run, options=Options(precision="fp16"))
    files.write_text(run / "recipe.yaml", "export: {max_drop: 2.5, min_agreement: 0.5}\n")
    export(run, options=Options(precision="fp16"))
    export(run, options=Options(precision="fp16", max_drop=0))
    assert [(one.max_drop, one.min_agreement) for one in seen] == [(1, 0.9), (2.5, 0.5), (0, 0.5)]


@pytest.mark.parametrize("format", ["openvino", "timm", "torch"])
def test_other_formats_are_float32(run: Path, format: str) -> None:
    with pytest.raises(UsageError, match=f"{format} cannot be written with --precision int8, only with fp32"):
        export(run, format=format, options=Options(precision="int8"))
    with pytest.raises(UsageError, match=f"{format} cannot be written with --preprocess inside, only with none"):
        export(run, format=format, options=Options(preprocess="inside"))


def test_a_network_that_cannot_be_lowered(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(network: onnx.ModelProto, _: object) -> tuple[onnx.ModelProto, str]:
        raise ValueError("no such\nscale")

    monkeypatch.setitem(precision.LOWER, "int8", failing)
    with pytest.raises(ArtefactError, match=r"run/model cannot be expressed in int8: ValueError: no such scale"):
        export(run, options=Options(precision="int8"))
    assert sorted(path.name for path in run.iterdir()) == ["manifest.json", "model"]

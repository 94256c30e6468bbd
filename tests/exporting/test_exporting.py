from __future__ import annotations

import errno
import importlib.metadata
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, DataError, ResourceError, UsageError
from cnn_tl.exporting import export as exporting
from cnn_tl.exporting.export import EXPORTERS, export
from cnn_tl.exporting.formats import onnx as onnx_format
from cnn_tl.exporting.options import Options
from cnn_tl.networks import backbone, bundle, onnx_model
from cnn_tl.networks.bundle import Bundle
from cnn_tl.networks.onnx_model import OnnxModel

CLASSES = ("blue", "red")


@pytest.fixture(scope="module")
def exported(model_folder: Path) -> Path:
    """Export the tiny bundle once, without comparing."""
    path = model_folder.with_name("exported.onnx")
    onnx_format.write(bundle.load(model_folder), path, Options())
    return path


@pytest.fixture
def quick(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the file that was exported once instead of tracing the network again."""

    def write(trained: Bundle, path: Path, options: Options) -> OnnxModel:
        shutil.copy(exported, path)
        return OnnxModel.open(path)

    monkeypatch.setitem(EXPORTERS, "onnx", write)


def corrupting(trained: Bundle, path: Path, options: Options) -> OnnxModel:
    """Export as usual, then change one weight of the classifier, under a seal that fits."""
    onnx_format.write(trained, path, options)
    model = onnx.load(path)
    del model.metadata_props[-1]
    weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims)[:1] == [len(CLASSES)])
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    content = model.SerializeToString()
    path.write_bytes(content + onnx_model.checksum(content))
    return OnnxModel.open(path)


def names_in(folder: Path) -> Iterator[str]:
    return (path.name for path in sorted(folder.iterdir()))


def test_export_of_a_run(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = export(run)
    assert capfd.readouterr() == ("", "")
    assert report.path == run / "model.onnx"
    assert report.images == "validation images"
    prepared = [found for found in report.parity if found.given == "prepared"]
    whole = [found for found in report.parity if found.given == "whole"]
    assert [(found.batch_size, found.images, found.top1) for found in prepared] == [
        (size, 10, 1) for size in (1, 2, 7, 33)
    ]
    assert max(found.largest_difference for found in prepared) < 1e-4
    assert [(found.batch_size, found.images, found.top1) for found in whole] == [
        (size, 10, 1) for size in (1, 2, 7, 33)
    ]
    assert max(found.largest_difference for found in whole) < 1e-2
    assert list(names_in(run)) == ["manifest.json", "model", "model.onnx", "model.onnx.json"]

    told = files.read_json(run / "model.onnx.json")
    assert told["path"] == "model.onnx"
    assert told["sha256"] == files.sha256_file(report.path)
    assert told["bytes"] == report.path.stat().st_size
    assert told["parity"][2]["top1"] == 1

    model = OnnxModel.open(report.path)
    trained = bundle.load(run)
    assert model.classes == CLASSES
    assert model.preprocessing == trained.preprocessing
    assert model.facts["architecture"] == "test_resnet"
    assert model.facts["onnxruntime"] == "1.18"
    pixels = np.random.default_rng(0).integers(0, 256, (33, 48, 48, 3), np.uint8)
    with torch.inference_mode():
        expected = trained.model(backbone.to_input(pixels, trained.preprocessing, torch.device("cpu")))
    np.testing.assert_allclose(model(pixels), expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(("ir_version", "opset"), [(8, 17), (10, 20), (10, 21)])
def test_the_oldest_onnxruntime(ir_version: int, opset: int) -> None:
    assert onnx_format.needed_onnxruntime(ir_version, opset) == "1.18"


@pytest.mark.parametrize(("ir_version", "opset"), [(11, 20), (10, 22), (12, 24)])
def test_of_a_newer_format_the_one_that_was_tried(ir_version: int, opset: int) -> None:
    assert onnx_format.needed_onnxruntime(ir_version, opset) == importlib.metadata.version("onnxruntime")


def test_the_file_tells_nothing_about_this_machine(exported: Path) -> None:
    content = exported.read_bytes()
    assert b"site-packages" not in content
    assert str(exported.parent).encode() not in content


def test_the_file_stands_alone_and_is_valid(exported: Path) -> None:
    model = onnx.load(exported, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    batch, height, width, channels = model.graph.input[0].type.tensor_type.shape.dim
    assert (batch.dim_param, height.dim_param, width.dim_param, channels.dim_value) == ("batch", "H", "W", 3)
    assert [output.name for output in model.graph.output] == ["probabilities", "logits"]


def test_one_changed_weight_leaves_no_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXPORTERS, "onnx", corrupting)
    with pytest.raises(ArtefactError, match=r"differs from the model: .* no file was written") as caught:
        export(run)
    assert caught.value.exit_code == 4
    assert list(names_in(run)) == ["manifest.json", "model"]


@pytest.mark.usefixtures("quick")
def test_an_earlier_export_survives_a_mismatch(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = export(run).sha256
    monkeypatch.setattr(exporting.parity, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(ArtefactError):
        export(run)
    assert files.sha256_file(run / "model.onnx") == before


@pytest.mark.usefixtures("quick")
def test_an_earlier_export_is_replaced(run: Path) -> None:
    assert export(run).sha256 == export(run / "model").sha256


@pytest.mark.usefixtures("quick")
def test_a_lone_bundle_is_compared_on_random_images(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lone = shutil.copytree(run / "model", run.parent / "lone" / "cats")
    monkeypatch.chdir(lone)
    report = export(".")
    assert report.path == lone.parent / "cats.onnx"
    assert report.images.startswith("random images")
    assert report.to_dict()["images"] == report.images
    assert json.loads(json.dumps(report.to_dict()))["path"] == str(report.path)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("told", [None, "{}", "[]", "not json", '{"sha256": "0"}'])
def test_a_file_of_somebody_else_is_left_alone(run: Path, told: str | None) -> None:
    output = run.parent / "mine.onnx"
    output.write_bytes(b"precious")
    if told is not None:
        output.with_name("mine.onnx.json").write_text(told)
    with pytest.raises(ResourceError, match=r"mine\.onnx is not an unchanged export"):
        export(run, output)
    assert output.read_bytes() == b"precious"


def test_a_report_of_somebody_else_is_left_alone(run: Path) -> None:
    notes = run.parent / "mine.onnx.json"
    notes.write_text('{"my": "notes"}')
    with pytest.raises(ResourceError, match=r"mine\.onnx\.json, the place of the report, is not one of cnn-tl"):
        export(run, run.parent / "mine.onnx")
    assert notes.read_text() == '{"my": "notes"}'
    notes.unlink()
    notes.mkdir()
    with pytest.raises(ResourceError, match=r"mine\.onnx\.json"):
        export(run, run.parent / "mine.onnx")
    assert not (run.parent / "mine.onnx").exists()


@pytest.mark.usefixtures("quick")
def test_without_a_report_there_is_no_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(ResourceError, match=r"write .*/model\.onnx\.json"):
            export(run)
    assert list(names_in(run)) == ["manifest.json", "model"]


@pytest.mark.usefixtures("quick")
def test_a_report_tells_of_the_file_that_is_there(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption comes most likely while the disk is waited for."""

    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    for earlier in (["manifest.json", "model"], ["manifest.json", "model", "model.onnx", "model.onnx.json"]):
        told = [path.read_bytes() for path in run.glob("model.onnx.json")]
        with monkeypatch.context() as patch:
            patch.setattr(files, "_fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                export(run, options=Options(outputs=("logits",)))
        assert list(names_in(run)) == earlier
        assert [path.read_bytes() for path in run.glob("model.onnx.json")] == told
        export(run)


@pytest.mark.usefixtures("quick")
def test_what_lies_beside_a_lone_bundle_is_not_its_run(run: Path) -> None:
    site = run.parent / "site"
    lone = shutil.copytree(run / "model", site / "cats")
    (site / "manifest.json").write_text('{"name": "app", "icons": []}')
    (site / "recipe.yaml").write_text("servings: 4")
    assert export(lone).images.startswith("random images")
    with pytest.raises(DataError, match=r"there is no manifest.json beside it that lists them; export from the run"):
        export(lone, options=Options(precision="fp16"))


def test_an_output_that_is_a_folder(run: Path) -> None:
    with pytest.raises(ResourceError, match="choose a file"):
        export(run, run.parent)


def test_unknown_format(run: Path) -> None:
    with pytest.raises(UsageError, match="no format 'coreml'; choose onnx"):
        export(run, format="coreml")


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="does not exist"):
        export(tmp_path / "absent")
    with pytest.raises(ArtefactError, match="neither a run folder nor a bundle"):
        export(tmp_path)


def test_too_large_for_one_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_format, "LARGEST_FILE", 1000)
    with pytest.raises(ArtefactError, match="GiB of weights"):
        export(run)
    assert list(names_in(run)) == ["manifest.json", "model"]


def test_a_model_that_onnx_cannot_express(run: Path) -> None:
    class Undecided(torch.nn.Module):
        def get_classifier(self) -> torch.nn.Module:
            return torch.nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    trained = Bundle(run / "model", CLASSES, bundle.load(run).preprocessing, {}, Undecided())
    with pytest.raises(ArtefactError, match="cannot be expressed in ONNX"):
        onnx_format.write(trained, run / "model.onnx", Options())
    assert not (run / "model.onnx").exists()


@pytest.mark.parametrize("name", EXPORTERS)
def test_every_exporter_is_proven_before_its_file_gets_a_name(
    run: Path, name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if name == "openvino":
        request.getfixturevalue("openvino")
    monkeypatch.setattr(exporting.parity, "LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(ArtefactError, match="differs from the model"):
        export(run, format=name)
    assert list(names_in(run)) == ["manifest.json", "model"]

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from cnn_tl.core.errors import ArtefactError, UsageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.inference.loading import load
from cnn_tl.networks import onnx_model
from cnn_tl.networks.onnx_model import OnnxModel, checksum

CLASSES = ("cat", "chien d'été", "狗")
SPEC = Preprocessing(8, 8, "bicubic", 0.875, "center", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
WEIGHT = np.arange(9, dtype=np.float32).reshape(3, 3)


def tiny_model(**changes: str) -> bytes:
    """Return a linear classifier on mean colours, as cnn-tl would write it but without its checksum."""
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["colours"]),
            helper.make_node("Gemm", ["colours", "weight"], ["logits"], transB=1),
        ],
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(WEIGHT, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, onnx_model.metadata(CLASSES, SPEC, "tiny", 18) | changes)
    return model.SerializeToString()


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content + checksum(content))
    return path


def test_runs_batches_of_any_size(tmp_path: Path) -> None:
    model = OnnxModel.open(write(tmp_path / "m.onnx", tiny_model()))
    assert model.classes == CLASSES
    assert model.preprocessing == SPEC
    assert model.facts["architecture"] == "tiny"
    assert model.facts["opset"] == "18"
    for batch_size in (1, 2, 7, 33):
        x = np.random.default_rng(0).normal(size=(batch_size, 3, 8, 8)).astype(np.float32)
        logits = model(x)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, x.mean((2, 3)) @ WEIGHT.T, atol=1e-5)


def test_an_export_knows_the_majority_class_of_training(tmp_path: Path) -> None:
    known = onnx_model.metadata(CLASSES, SPEC, "tiny", 18, majority_class=CLASSES[1])
    assert load(write(tmp_path / "new.onnx", tiny_model(**known))).majority_class == CLASSES[1]
    assert load(write(tmp_path / "old.onnx", tiny_model())).majority_class is None


@pytest.mark.parametrize("batch_size", [0, 1, 2, 7, 33])
def test_a_batch_may_be_shared_out(tmp_path: Path, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "default_workers", lambda: 3)
    path = write(tmp_path / "m.onnx", tiny_model())
    shared_out = OnnxModel.open(path, many=True)
    x = np.random.default_rng(0).normal(size=(batch_size, 3, 8, 8)).astype(np.float32)
    assert (shared_out.side_by_side, shared_out.session.get_session_options().intra_op_num_threads) == (3, 1)
    np.testing.assert_array_equal(shared_out(x), OnnxModel.open(path)(x))


def test_other_tools_read_the_sealed_file(tmp_path: Path) -> None:
    content = tiny_model()
    model = onnx.load(write(tmp_path / "m.onnx", content))
    onnx.checker.check_model(model, full_check=True)
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert ast.literal_eval(found["names"]) == dict(enumerate(CLASSES))
    assert found["cnn_tl.sha256"].encode() in checksum(content)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", tiny_model())
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 + position % 255
        path.write_bytes(damaged)
        with pytest.raises(ArtefactError, match=r"damaged or changed|not a model that cnn-tl exported"):
            OnnxModel.open(path)


@pytest.mark.parametrize("length", [0, 1, 40, 500, -1, -40])
def test_a_truncated_file_is_noticed(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "m.onnx", tiny_model())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ArtefactError, match="cnn-tl export RUN"):
        OnnxModel.open(path)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><title>404</title>", b"\0" * 1000])
def test_no_model_at_all(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ArtefactError, match="is not a model that cnn-tl exported"):
        OnnxModel.open(path)


def test_a_foreign_model_is_refused(tmp_path: Path) -> None:
    model = onnx.load_from_string(tiny_model())
    del model.metadata_props[:]
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    with pytest.raises(ArtefactError, match="is not a model that cnn-tl exported"):
        OnnxModel.open(path)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="No such file"):
        OnnxModel.open(tmp_path / "absent.onnx")
    with pytest.raises(ArtefactError, match="cannot be read"):
        OnnxModel.open(tmp_path)


def test_a_newer_file_names_the_remedy(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", tiny_model(**{"cnn_tl.format_version": "3", "cnn_tl.version": "9.1"}))
    with pytest.raises(ArtefactError, match=r"made by cnn-tl 9\.1 .*upgrade cnn-tl"):
        OnnxModel.open(path)


def test_a_file_of_an_earlier_version_knows_no_thresholds(tmp_path: Path) -> None:
    model = load(write(tmp_path / "old.onnx", tiny_model()))
    assert model.thresholds is None
    assert model.outputs(np.zeros((1, 8, 8, 3), np.uint8)).shape == (1, 3)
    with pytest.raises(UsageError, match="keeps no held-out answers"):
        model.rule(max_error=0.05)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cnn_tl.format_version", "one"),
        ("class_names", "[cat"),
        ("class_names", "[" * 100_000),
        ("preprocessing", "{}"),
        ("preprocessing", '"none"'),
        ("cnn_tl.format_version", "-1"),
        ("class_names", '["cat", "dog"]'),
        ("class_names", '["cat", "dog", "dog"]'),
        ("class_names", "[1, 2, 3]"),
        ("class_names", '"cat"'),
        ("preprocessing_inside", "true"),
        (onnx_model.THRESHOLDS, "{}"),
        (onnx_model.THRESHOLDS, '{"source": "training", "images": 9, "sets": [0.1], "limits": [], "confidences": []}'),
    ],
)
def test_impossible_metadata_under_a_valid_seal(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ArtefactError):
        OnnxModel.open(write(tmp_path / "m.onnx", tiny_model(**{key: value})))


def test_garbage_under_a_valid_seal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArtefactError, match="cannot be loaded"):
        OnnxModel.open(write(tmp_path / "m.onnx", b"\x99" * 500))
    assert capfd.readouterr() == ("", "")

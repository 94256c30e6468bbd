"""The formats beside ONNX, each read by the tool that it is for; parity runs by itself over what they return."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from cnn_tl.core import files
from cnn_tl.core.errors import ResourceError, UsageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.exporting.export import export
from cnn_tl.exporting.options import Options
from cnn_tl.inference.loading import load
from cnn_tl.networks import bundle

CLASSES = ("blue", "red")


def test_torch(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = export(run, format="torch")
    assert capfd.readouterr() == ("", "")
    assert report.path == run / "model.pt2"
    assert report.facts == {"architecture": "test_resnet"}
    assert [found.top1 for found in report.parity] == [1] * 4
    extra = {"cnn_tl.json": ""}
    module = torch.export.load(report.path, extra_files=extra).module()
    assert '"class_names": ["blue", "red"]' in extra["cnn_tl.json"]
    x_nchw = torch.rand(5, 3, 48, 48)
    with torch.inference_mode():
        torch.testing.assert_close(module(x_nchw), bundle.load(run).model(x_nchw), atol=1e-4, rtol=0)
    assert str(run.parent).encode() not in report.path.read_bytes()
    assert export(run, format="torch").sha256 == files.sha256_file(report.path)


def test_timm(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    report = export(run, format="timm")
    assert capfd.readouterr() == ("", "")
    folder = run / "model-timm"
    assert report.path == folder
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["README.md", "SHA256SUMS", "config.json", "model.safetensors"]
    assert report.sha256 == files.sha256_file(folder / "SHA256SUMS")
    assert report.bytes == sum((folder / name).stat().st_size for name in names if name != "SHA256SUMS")
    assert files.read_json(run / "model-timm.json")["format"] == "timm"
    assert_timm_answers_as_predict(folder, next((run.parent / "data" / "red").iterdir()))


def test_timm_with_a_graph(graph_run: Path) -> None:
    folder = export(graph_run, format="timm").path
    assert (folder / "graph.onnx").read_bytes() == (graph_run / "model" / "graph.onnx").read_bytes()
    assert bundle.read(folder).graph is not None
    assert_timm_answers_as_predict(folder, next((graph_run.parent / "data" / "red").iterdir()))
    export(graph_run, format="timm")  # an unchanged export is replaced


def assert_timm_answers_as_predict(folder: Path, image: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model.pretrained_cfg), is_training=False)
    with torch.inference_mode():
        shares = model(transform(Image.open(image).convert("RGB"))[None]).softmax(1)[0].numpy()
    [answer] = load(folder).predict([image], top=2)
    expected = [dict(answer.top)[name] for name in model.pretrained_cfg["label_names"]]
    np.testing.assert_allclose(shares, expected, atol=1e-5)


def test_transformers_answers_as_predict(run: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    image = next((run.parent / "data" / "red").iterdir())
    [answer] = load(run).predict([image], top=2)
    found = transformers.pipeline("image-classification", model=str(run / "model"))(str(image))
    assert [one["label"] for one in found] == [label for label, _ in answer.top]
    np.testing.assert_allclose([one["score"] for one in found], [share for _, share in answer.top], atol=1e-5)


def test_what_transformers_reads(run: Path) -> None:
    """It gives `num_classes` beside `model_args`, and Python refuses an argument that comes twice."""
    config = files.read_json(run / "model" / "config.json")
    assert "num_classes" not in config["model_args"]
    assert (config["num_classes"], config["label_names"]) == (2, list(CLASSES))
    model = timm.create_model(config["architecture"], num_classes=config["num_classes"], **config["model_args"])
    model.load_state_dict(files.read_tensors(run / "model" / "model.safetensors"))


def test_openvino(run: Path, openvino: Any, capfd: pytest.CaptureFixture[str]) -> None:
    report = export(run, format="openvino", options=Options(outputs=("logits", "features")))
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in report.path.iterdir()) == ["SHA256SUMS", "model.bin", "model.xml"]
    assert [found.top1 for found in report.parity] == [1] * 4
    compiled = openvino.compile_model(report.path / "model.xml", "CPU")
    result = compiled({"input": np.zeros((3, 3, 48, 48), np.float32)})
    assert (result["logits"].shape, result["features"].shape[0]) == ((3, 2), 3)


def test_openvino_is_not_installed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ResourceError, match=r"needs the package openvino: pip install openvino$") as caught:
        export(run, format="openvino")
    assert caught.value.exit_code == 5
    assert sorted(path.name for path in run.iterdir()) == ["manifest.json", "model"]


def test_a_folder_is_replaced_only_if_it_is_an_unchanged_export(run: Path) -> None:
    folder = run / "model-timm"
    folder.mkdir()
    export(run, format="timm")  # an empty one is nobody's
    export(run, format="timm")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ResourceError, match="not an unchanged export"):
        export(run, format="timm")
    (folder / "notes.txt").unlink()
    with (folder / "README.md").open("a") as stream:
        stream.write("my own words\n")
    with pytest.raises(ResourceError, match="not an unchanged export"):
        export(run, format="timm")
    with pytest.raises(ResourceError, match="not an unchanged export"):
        export(run, run / "model", format="timm")
    with pytest.raises(ResourceError, match="is a file; choose a folder as --output"):
        export(run, run / "manifest.json", format="timm")
    assert "my own words" in (folder / "README.md").read_text()


def test_timm_cannot_load_every_model(run: Path) -> None:
    config = files.read_json(run / "model" / "config.json")
    config["cnn_tl"]["head"] = {"kind": "knn"}
    assert bundle.only_here(config) == "its classifier is of the kind knn, not one linear layer"
    config["cnn_tl"].pop("head")
    assert bundle.only_here(config) is None


def test_every_classic_model_is_refused(run: Path, tmp_path: Path) -> None:
    from cnn_tl.networks import classic

    registered = {
        name
        for module in (classic.lenet, classic.googlenet)
        for name in timm.list_models(module=module.__name__.rpartition(".")[2])
    }
    assert registered == set(bundle.CLASSIC)
    model = timm.create_model("lenet5", num_classes=2)
    spec = Preprocessing.from_pretrained_cfg(model.pretrained_cfg)
    bundle.save_model(tmp_path / "lenet", model, classes=CLASSES, preprocessing=spec, facts={})
    with pytest.raises(UsageError, match="timm has no lenet5; --format onnx can"):
        export(tmp_path / "lenet", format="timm", options=Options())

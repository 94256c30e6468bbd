"""The model card: what the hub and a person read in it, and that editing it does not affect the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from huggingface_hub import ModelCard

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks import bundle, model_card

SPEC = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
FACTS = {
    "version": "1.2.3",
    "preprocessing": SPEC.to_dict(),
    "mode": "freeze",
    "weights": "ImageNet weights from somewhere",
    "validation": {"accuracy": 0.75, "images": 8, "interval": [0.409, 0.929]},
    "baseline": {"accuracy": 0.5, "class": "a|b"},
    "data": {"name": "pets", "images": {"a|b": {"train": 1200, "val": 4}, "<c>": {"train": 7, "val": 4}}},
}


def config(**facts: Any) -> dict[str, Any]:
    return {"architecture": "test_resnet", "label_names": ["a|b", "<c>"], "cnn_tl": facts, "pretrained_cfg": {}}


def test_what_the_hub_reads() -> None:
    card = ModelCard(model_card.text(config(**FACTS)))
    data = card.data.to_dict()
    assert data["license"] == "unknown"
    assert data["library_name"] == "timm"
    assert data["pipeline_tag"] == "image-classification"
    assert data["metrics"] == ["accuracy"]
    [result] = card.data.eval_results
    assert (result.dataset_name, result.metric_type, result.metric_value) == ("pets", "accuracy", 0.75)


def test_what_a_reader_reads() -> None:
    text = model_card.text(config(**FACTS))
    assert "| validation accuracy | 75.0% of 8 images |" in text
    assert "for onnxruntime 1.18 or newer" in text
    assert "| 95% interval (Wilson) | 40.9% - 92.9% |" in text
    assert "| majority-class baseline (always a&#124;b) | 50.0% |" in text
    assert "pets: 1,207 images for training, 8 for validation" in text
    assert "| a&#124;b | 1,200 | 4 |" in text
    assert "| &lt;c&gt; | 7 | 4 |" in text
    assert "in mode `freeze` from: ImageNet weights from somewhere" in text


def test_a_bundle_that_says_little() -> None:
    text = model_card.text(config(version="1", preprocessing=SPEC.to_dict()))
    assert "Accuracy" not in text
    assert "model-index" not in text
    assert "| a&#124;b |" in text


def test_what_timm_cannot_load_is_not_called_timms() -> None:
    text = model_card.text(config(**FACTS), reason="timm has no lenet5")
    assert yaml.safe_load(text.split("---")[1])["library_name"] == "cnn-tl"
    assert "timm and transformers cannot load it: timm has no lenet5." in text
    assert "local-dir" not in text


def test_names_from_strange_file_systems(tmp_path: Path) -> None:
    facts = {**FACTS, "data": {"name": "p\udce4ts\n---", "images": FACTS["data"]["images"]}}  # type: ignore[index]
    text = model_card.text(config(**facts))
    text.encode()
    assert len(ModelCard(text).data.eval_results) == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = timm.create_model("test_resnet", num_classes=2)
    spec = Preprocessing.from_pretrained_cfg(model.pretrained_cfg, 48)
    bundle.save_model(tmp_path / "model", model, classes=["a", "b"], preprocessing=spec, facts={})
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "hf-hub:timm/resnet18.a1_in1k"}, "names no timm model: hf-hub:timm/resnet18"),
        ({"architecture": "local-dir:/elsewhere"}, "names no timm model"),
        ({"architecture": "no_such_net"}, "names no timm model"),
        ({"architecture": 5}, "names no timm model: 5"),
        ({"model_args": [1]}, "model_args is not a mapping"),
        ({"model_args": {"no_such_argument": 1}}, "do not fit test_resnet"),
    ],
)
def test_a_config_that_names_something_else(folder: Path, change: dict[str, object], said: str) -> None:
    config = files.read_json(folder / "config.json")
    files.write_json(folder / "config.json", config | change)
    files.write_checksums(folder)
    with pytest.raises(ArtefactError, match=said):
        bundle.load(folder)


def test_a_config_cannot_make_timm_open_another_file(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary.pth"
    config = files.read_json(folder / "config.json")
    places = {"checkpoint_path": str(canary), "cache_dir": str(canary), "pretrained": True, "pretrained_cfg": "x"}
    files.write_json(folder / "config.json", config | {"model_args": places})
    files.write_checksums(folder)
    assert bundle.load(folder).classes == ("a", "b")


def test_an_edited_or_missing_card_leaves_the_model_as_it_is(folder: Path) -> None:
    assert "README.md" in (folder / "SHA256SUMS").read_text()
    (folder / "README.md").write_text("mine")
    bundle.load(folder)
    (folder / "README.md").unlink()
    bundle.load(folder)
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    with pytest.raises(ArtefactError, match=r"config\.json is missing or differs"):
        bundle.load(folder)


def test_a_bundle_of_before_loads(folder: Path) -> None:
    (folder / "README.md").unlink()
    config = files.read_json(folder / "config.json")
    config["model_args"]["num_classes"] = 2
    files.write_json(folder / "config.json", config)
    files.write_checksums(folder)
    assert bundle.load(folder).classes == ("a", "b")

"""Which backbones are compared: those that are named, or those whose weights are here."""

from __future__ import annotations

from pathlib import Path

import pytest

from cnn_tl.advising.recommend.candidates import Candidate, candidates_of
from cnn_tl.core.errors import UsageError
from cnn_tl.networks.pretrained import weights

LITE = "tf_efficientnet_lite"


def test_names_files_and_sizes() -> None:
    found, missing = candidates_of(["resnet18, mobilenetv2_100=w.safetensors", "resnet34"], [224, 288])
    assert [(one.model, one.weights, one.image_size) for one in found] == [
        ("resnet18", None, 224),
        ("resnet18", None, 288),
        ("mobilenetv2_100", "w.safetensors", 224),
        ("mobilenetv2_100", "w.safetensors", 288),
        ("resnet34", None, 224),
        ("resnet34", None, 288),
    ]
    assert missing == []


def test_one_named_twice_is_one() -> None:
    assert candidates_of(["resnet18", "resnet18"], [])[0] == [Candidate("resnet18")]


def test_the_own_size_of_a_default_model_is_no_size_of_its_own() -> None:
    """At its own size it needs no torch, and its features are those of any run."""
    found, _ = candidates_of([f"{LITE}0"], [224, 288])
    assert found == [Candidate(f"{LITE}0"), Candidate(f"{LITE}0", image_size=288)]


def test_a_path_may_hold_a_comma(tmp_path: Path) -> None:
    file = tmp_path / "a,b.safetensors"
    file.touch()
    assert candidates_of([f"resnet18={file}"], [])[0] == [Candidate("resnet18", str(file))]


@pytest.mark.parametrize("text", ["resnet18=", ",", "resnet18,,resnet34", "=w.pth"])
def test_unreadable(text: str) -> None:
    with pytest.raises(UsageError, match="write it as MODEL or MODEL=FILE"):
        candidates_of([text], [])


def test_mistyped() -> None:
    with pytest.raises(UsageError, match="resnet18"):
        candidates_of(["resnet81"], [])


def test_by_default_those_whose_packages_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_package_file", lambda package: None if "lite1" in package else Path("w"))
    found, missing = candidates_of([], [], Candidate("resnet18", "w.pth", 160))
    assert [one.model for one in found] == ["resnet18", f"{LITE}0", f"{LITE}2"]
    assert missing == [f"{LITE}1"]


def test_settings_are_keywords_of_train() -> None:
    assert Candidate("resnet18").settings == {"model": "resnet18"}
    assert Candidate("a", "w.pth", 64).settings == {"model": "a", "weights": "w.pth", "image_size": 64}
    assert str(Candidate("a", None, 64)) == "a at 64 px"

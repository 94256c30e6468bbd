"""Which images are evaluated, what is counted, and how the answers to changed images are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.core.errors import DataError, UsageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.progress import Observer
from cnn_tl.data.folders.scan import Corrections, scan
from cnn_tl.data.reading import ahead
from cnn_tl.evaluating import evaluate as evaluating
from cnn_tl.evaluating.evaluate import Evaluation, EvaluationOptions
from cnn_tl.inference.classifier import Classifier

SPEC = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLASSES = ("dark", "grey", "light")


def by_brightness(pixels: Any) -> Any:
    """Logits of a model with three classes, certain at the middle of each."""
    brightness = pixels.mean(axis=(1, 2, 3))[:, None]
    return (-np.abs(brightness - np.array([[0, 128, 255]])) / 16).astype(np.float32)


@pytest.fixture(autouse=True)
def _one_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluating, "load", lambda source, device, **_: Classifier(CLASSES, SPEC, by_brightness))


def evaluate(source: Path | str, data: Path, observer: Observer | None = None, **options: Any) -> Evaluation:
    return evaluating.evaluate(source, data, EvaluationOptions(**options), observer)


def put(folder: Path, values: Mapping[str, int]) -> None:
    """Write images of one grey each, a little different in a corner so that no two are the same file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, value) in enumerate(values.items()):
        image = Image.new("RGB", (20, 20), (value,) * 3)
        image.putpixel((0, 0), (number,) * 3)
        image.save(folder / f"{name}.png")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Dark, grey and light images; one of the light ones looks grey."""
    root = tmp_path / "data"
    put(root / "dark", {"a": 0, "b": 5})
    put(root / "grey", {"a": 128, "b": 120, "c": 135})
    put(root / "light", {"a": 250, "b": 140, "c": 255, "d": 240, "e": 245})
    return root


def test_counts(data: Path) -> None:
    found = evaluate("run", data)
    assert (found.images, found.correct, found.accuracy) == (10, 9, 0.9)
    assert found.interval == pytest.approx((0.596, 0.982), abs=0.001)
    assert (found.baseline, found.baseline_class, found.baseline_from) == (0.5, "light", "evaluated")
    assert found.balanced_accuracy == pytest.approx((1 + 1 + 0.8) / 3)
    assert found.confusion == [[2, 0, 0], [0, 3, 0], [0, 1, 4]]
    grey = found.per_class["grey"]
    assert (grey.images, grey.right, grey.answered) == (3, 3, 4)
    assert (grey.precision, grey.recall, grey.f1) == (0.75, 1.0, pytest.approx(6 / 7))
    assert found.confused() == [(1, "light", "grey")]
    assert (found.split, found.trained_on, found.robustness) == (None, None, ())
    json.dumps(found.to_dict(), allow_nan=False)


def test_images_that_show_nothing_are_named(data: Path) -> None:
    lines: list[str] = []
    observer = Observer()
    observer.warn = lines.append  # type: ignore[method-assign]
    Image.new("RGB", (20, 20), (200,) * 3).save(data / "light" / "plain.png")
    evaluate("run", data, observer=observer)
    names = [line.partition(":")[0] for line in lines]
    assert "images of one colour all over" in names
    assert "plain.png" in "".join(lines)


@pytest.mark.parametrize(("trained_on", "share"), [("dark", 0.2), ("grey", 0.3), ("light", 0.5)])
def test_the_baseline_answers_what_was_most_frequent_in_training(
    data: Path, monkeypatch: pytest.MonkeyPatch, trained_on: str, share: float
) -> None:
    model = Classifier(CLASSES, SPEC, by_brightness, trained_on)
    monkeypatch.setattr(evaluating, "load", lambda source, device, **_: model)
    found = evaluate("run", data)
    assert (found.baseline, found.baseline_class, found.baseline_from) == (share, trained_on, "training")


def test_confusions_come_by_how_often_they_happen(tmp_path: Path) -> None:
    put(tmp_path / "dark", {"a": 0, "b": 130})
    put(tmp_path / "grey", {"a": 128, "b": 1})
    put(tmp_path / "light", {"a": 135, "b": 140, "c": 120, "d": 255, "e": 2})
    assert evaluate("run", tmp_path).confused() == [
        (3, "light", "grey"), (1, "dark", "grey"), (1, "grey", "dark"), (1, "light", "dark")
    ]  # fmt: skip


def test_log_loss_and_calibration_error(tmp_path: Path) -> None:
    """By hand, from the two logits that matter: the third class is 8 or more behind."""
    put(tmp_path / "dark", {"a": 0})
    put(tmp_path / "grey", {"a": 40})  # 40 / 16 from dark, 88 / 16 from grey: called dark
    found = evaluate("run", tmp_path)
    gap = 48 / 16
    right, wrong = 1 / (1 + math.exp(-8)), 1 / (1 + math.exp(gap))
    assert found.log_loss == pytest.approx(-(math.log(right) + math.log(wrong)) / 2, abs=0.02)
    assert found.calibration_error == pytest.approx(((1 - right) + (1 - wrong)) / 2, abs=0.01)


def test_test_is_taken_before_val_and_train_only_by_name(data: Path, tmp_path: Path) -> None:
    root = tmp_path / "parts"
    for split in ("train", "validation", "Test"):
        put(root / split / "dark", {"a": 0, "b": 3} if split == "Test" else {"a": 0})
    assert (evaluate("run", root).split, evaluate("run", root).images) == ("test", 2)
    assert (evaluate("run", root, split="val").split, evaluate("run", root, split="val").images) == ("val", 1)
    assert evaluate("run", root, split="train").split == "train"
    (root / "Test").rename(tmp_path / "gone")
    assert evaluate("run", root).split == "val"
    with pytest.raises(UsageError, match="has no split test; it has"):
        evaluate("run", root, split="test")
    (root / "validation").rename(tmp_path / "gone too")
    with pytest.raises(DataError, match="neither test nor val"):
        evaluate("run", root)
    with pytest.raises(UsageError, match="has no splits"):
        evaluate("run", data, split="val")


def test_what_the_model_was_trained_on_is_left_out_wherever_it_lies(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    manifest = scan(data, seed=0, val_fraction=0.4)
    (run / "manifest.json").write_text(json.dumps(manifest.to_json()))
    moved = data.rename(tmp_path / "moved")
    found = evaluate(run, moved)
    assert found.images == len(manifest.of("val"))
    assert found.trained_on == len(manifest.of("train"))
    assert evaluate(run / "model.onnx", moved).images == found.images
    assert evaluate(tmp_path / "elsewhere" / "model", moved).trained_on is None
    for image in manifest.of("val"):
        (moved / image.path).unlink()
    with pytest.raises(DataError, match="trained on all of them"):
        evaluate(run, moved)
    moved.rename(tmp_path / "train")
    with pytest.raises(DataError, match="--split train takes"):
        evaluate(run, put_beside(tmp_path))
    again = evaluate(run, put_beside(tmp_path), split="train")
    assert (again.images, again.trained_on) == (len(manifest.of("train")), None)


def test_the_corrections_of_the_run_are_followed(data: Path, tmp_path: Path) -> None:
    (tmp_path / "exclude.txt").write_text("grey/a.png\ngrey/copy.png\n")
    (tmp_path / "relabel.csv").write_text("image,label\nlight/b.png,grey\n")
    (data / "grey" / "copy.png").write_bytes((data / "grey" / "b.png").read_bytes())
    run = tmp_path / "run"
    run.mkdir()
    corrections = Corrections(tmp_path / "exclude.txt", tmp_path / "relabel.csv")
    manifest = scan(data, seed=0, val_fraction=0.4, corrections=corrections)
    every = replace(manifest, images=tuple(replace(image, split="val") for image in manifest.images))
    (run / "manifest.json").write_text(json.dumps(every.to_json()))
    found = evaluate(run, data)
    assert found.images == 10, "all but grey/a.png, as a copy of the other one is used"
    assert found.accuracy == 1, "the light image that looks grey is one"
    assert "images that were left out of the training, and are left out here: 1" in found.notes
    assert "images with the label that the training gave them: 1" in found.notes
    assert found.per_class["grey"].images == 4
    plain = evaluate(tmp_path / "elsewhere" / "model", data)
    assert (plain.images, plain.accuracy) == (11, 10 / 11)


def put_beside(tmp_path: Path) -> Path:
    root = tmp_path / "parts"
    if not root.exists():
        root.mkdir()
        (tmp_path / "train").rename(root / "train")
    return root


def test_classes_are_matched_by_name(data: Path) -> None:
    (data / "dark").rename(data / "night")
    with pytest.raises(DataError, match="does not know: night; it knows dark, grey, light"):
        evaluate("run", data)
    for file in (data / "night").iterdir():
        file.unlink()
    (data / "night").rmdir()
    found = evaluate("run", data)
    assert "no images of: dark" in found.notes
    assert found.images == 8
    assert found.balanced_accuracy == pytest.approx((1 + 0.8) / 2)


def test_broken_images_count_nowhere(data: Path, tmp_path: Path) -> None:
    whole = (data / "grey" / "a.png").read_bytes()
    (data / "grey" / "a.png").write_bytes(whole[:60])
    for robustness in (False, True):
        found = evaluate("run", data, robustness=robustness)
        assert (found.images, found.per_class["grey"].images) == (9, 2)
        assert [Path(file).name for file, _ in found.unreadable] == ["a.png"]
    lone = tmp_path / "lone"
    put(lone / "dark", {"a": 0})
    (lone / "dark" / "a.png").write_bytes(whole[:60])
    with pytest.raises(DataError, match=r"no image of .* can be read"):
        evaluate("run", lone)


def test_a_limit_takes_of_each_class_its_share_and_the_same_ones_again(data: Path) -> None:
    found = evaluate("run", data, limit=5)
    assert {name: counts.images for name, counts in found.per_class.items()} == {"dark": 1, "grey": 2, "light": 2}
    assert evaluate("run", data, limit=5) == found
    assert evaluate("run", data, limit=10).images == evaluate("run", data, limit=11).images == 10


class Counting(Observer):
    """Adds up what it hears of."""

    def __init__(self) -> None:
        self.total, self.done = 0, 0

    def start(self, task: str, total: int | None, unit: str = "images") -> None:
        self.total += total or 0

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        self.done += done


def row(found: Evaluation, change: str, level: float) -> Any:
    [one] = [row for row in found.robustness if (row.change, row.level) == (change, level)]
    return one


def test_robustness_tells_what_an_answer_hangs_on(data: Path) -> None:
    """This model sees the mean brightness: nothing but brightness may change its answers."""
    watching = Counting()
    found = evaluate("run", data, robustness=True, batch_size=7, observer=watching)
    plain = evaluate("run", data)
    assert (found.accuracy, found.confusion) == (plain.accuracy, plain.confusion)
    assert watching.total == watching.done
    assert found.robustness[0].agreement == 1.0
    for one in found.robustness:
        if one.change != "brightness":
            assert (one.accuracy, one.agreement) == (0.9, 1.0), one
    assert row(found, "shift", 10).views == 4 * 10
    halved = row(found, "brightness", 0.5)  # light becomes grey, grey stays grey or becomes dark
    assert halved.accuracy == pytest.approx(0.2 + 0.1 * sum(v / 2 > 64 for v in (128, 120, 135)), abs=0.11)
    assert halved.agreement < 0.6
    assert row(found, "brightness", 0.75).agreement > halved.agreement


@pytest.mark.parametrize("robustness", [False, True])
def test_processes_decode_as_threads_do(data: Path, monkeypatch: pytest.MonkeyPatch, robustness: bool) -> None:
    Image.new("RGB", (9, 9), "white").save(next(data.iterdir()) / "white.png")
    (next(data.iterdir()) / "broken.png").write_bytes(b"no image")
    observers = Counting(), Counting()
    by_threads = evaluate("run", data, robustness=robustness, workers=2, observer=observers[0])
    monkeypatch.setattr(ahead, "PROCESSES_FROM", 1)
    monkeypatch.setattr(ahead, "IMAGES_EACH", 1)
    by_processes = evaluate("run", data, robustness=robustness, workers=2, observer=observers[1])
    assert by_processes == by_threads
    assert len(by_threads.unreadable) == 1
    assert observers[0].done == observers[1].done

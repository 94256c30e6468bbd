"""What verdicts are worth on labelled images and on foreign ones, by a model whose answers are known."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.abstention.evidence import Evidence
from cnn_tl.abstention.rule import Rule
from cnn_tl.abstention.threshold_table import ThresholdTable
from cnn_tl.core.errors import DataError, UsageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.evaluating import evaluate as evaluating
from cnn_tl.evaluating.evaluate import Evaluation, EvaluationOptions
from cnn_tl.inference.classifier import Classifier
from cnn_tl.metrics.selective import Abstention

SPEC = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLASSES = ("dark", "light")


@dataclass(frozen=True)
class Thresholds:
    """Promises at most 10% wrong from 90% on; beyond distance 1 (or 3, at 30%) all is unknown."""

    least: tuple[float, float] | None = (0.2, 0.2)

    def rule(self, max_error: float | None = None, unknown: float | None = None) -> Rule:
        if max_error is not None and max_error < 0.1:
            raise UsageError("--max-error: there are 7 held-out images")
        return Rule(
            least_confidence=0.0 if max_error is None else 0.9,
            most_distance=3.0 if unknown == 0.3 else 1.0,
            least=None if self.least is None else np.array(self.least),
            withholds=max_error is not None,
        )


def by_brightness(pixels: Any) -> Any:
    """Return logits by brightness, and as distance how many of the green levels are in red."""
    red, green = pixels[..., 0].mean((1, 2)), pixels[..., 1].mean((1, 2))
    logits = np.stack([127.5 - green, green - 127.5], 1) / 32
    return np.concatenate([logits, np.abs(red - green)[:, None] / 50], 1).astype(np.float32)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    made = Classifier(CLASSES, SPEC, by_brightness, thresholds=Thresholds())
    monkeypatch.setattr(evaluating, "load", lambda source, device, **_: made)
    return made


def put(folder: Path, colours: Mapping[str, tuple[int, int]]) -> Path:
    """Write images by (red, green), a little different in a corner so that no two are the same file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, (red, green)) in enumerate(colours.items()):
        image = Image.new("RGB", (20, 20), (red, green, 0))
        image.putpixel((0, 0), (number,) * 3)
        image.save(folder / f"{name}.png")
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Write six sure right answers, one sure wrong one, a doubtful right one, and one that lies far away."""
    put(tmp_path / "data/dark", {"a": (0, 0), "b": (9, 9), "c": (5, 5), "wrong": (255, 255)})
    put(tmp_path / "data/light", {"a": (255, 255), "b": (250, 250), "c": (245, 245), "doubt": (140, 140)})
    put(tmp_path / "data/light", {"far": (120, 250)})
    return tmp_path / "data"


def evaluate(data: Path, **options: Any) -> Evaluation:
    return evaluating.evaluate("run", data, EvaluationOptions(workers=0, **options))


def abstention(data: Path, **options: Any) -> Abstention:
    return evaluate(data, **options).abstention


def test_without_options_it_prints_what_not_answering_would_gain(model: Classifier, data: Path) -> None:
    found = abstention(data)
    assert found.risk[0].error == pytest.approx(1 / 9)
    assert found.called_unknown == pytest.approx(1 / 9)
    assert (found.promise, found.unknown) == (None, None)
    assert found.sets is not None
    assert found.sets.held == pytest.approx(8 / 9)  # the wrong one is sure, so its set is wrong
    assert found.sets.mean_size == pytest.approx(10 / 9)  # both classes for the doubtful one


def test_a_promise_is_about_images_that_are_sure_and_known(model: Classifier, data: Path) -> None:
    check = abstention(data, max_error=0.1).promise
    assert check is not None
    assert (check.answered, check.wrong, check.least, check.reason) == (7, 1, 0.9, "")
    assert check.coverage == pytest.approx(7 / 9)
    assert check.error == pytest.approx(1 / 7)


def test_more_images_are_known_where_more_may_be_called_unknown(model: Classifier, data: Path) -> None:
    assert abstention(data, unknown=0.3).called_unknown == 0
    assert abstention(data, unknown=0.3, max_error=0.1).promise.answered == 8  # type: ignore[union-attr]


def test_what_cannot_be_promised_is_said_and_nothing_is_answered(model: Classifier, data: Path, tmp_path: Path) -> None:
    foreign = put(tmp_path / "foreign", {"a": (0, 0)})
    found = abstention(data, max_error=0.05, unknown_images=foreign)
    assert found.promise is not None
    assert (found.promise.least, found.promise.error, found.promise.answered) == (None, None, 0)
    assert found.promise.reason == "there are 7 held-out images"
    assert found.unknown is not None
    assert found.unknown.answered == 0


def test_foreign_images_are_found_in_folders_and_those_that_cannot_be_read_are_counted(
    model: Classifier, data: Path, tmp_path: Path
) -> None:
    put(tmp_path / "foreign", {"near": (0, 0), "far": (0, 255)})
    put(tmp_path / "foreign/deep", {"farther": (255, 0)})
    (tmp_path / "foreign/deep/broken.png").write_bytes(b"no image")
    check = abstention(data, unknown_images=tmp_path / "foreign").unknown
    assert check is not None
    assert (check.images, check.unreadable) == (3, 1)
    assert check.called_unknown == pytest.approx(2 / 3)
    assert check.answered == pytest.approx(1 / 3)
    assert check.auroc_of_distance is not None
    assert 0.8 < check.auroc_of_distance < 1
    assert check.auroc_of_probability < 0.5  # they look very sure
    json.dumps(evaluate(data, unknown_images=tmp_path / "foreign").to_dict(), allow_nan=False)


def test_foreign_images_of_which_none_can_be_read_are_an_error(model: Classifier, data: Path, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"no image of .*foreign can be read"):
        evaluate(data, unknown_images=tmp_path / "foreign")


def test_robustness_keeps_the_distances_of_unchanged_images(model: Classifier, data: Path) -> None:
    plain, changed = evaluate(data), evaluate(data, robustness=True)
    assert changed.robustness
    assert changed.abstention.called_unknown == plain.abstention.called_unknown
    assert changed.abstention.sets == plain.abstention.sets


def test_thresholds_from_the_same_validation_images_draw_a_note(
    model: Classifier, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 2, 100)
    logits = chance.normal(size=(100, 2)) + 5 * np.eye(2)[labels]
    (tmp_path / "splits").mkdir()
    data.rename(tmp_path / "splits/val")
    for source, noted in (("validation", True), ("training", False)):
        evidence = Evidence.of(source, logits, labels)
        for thresholds in (evidence, ThresholdTable.of(evidence)):  # of a run, and of a file
            judged = replace(model, thresholds=thresholds)
            monkeypatch.setattr(evaluating, "load", lambda *_, judged=judged, **__: judged)
            notes = evaluate(tmp_path / "splits").notes
            assert any("thresholds come from these validation images" in note for note in notes) == noted


def test_an_old_model_has_no_promise_but_errors_by_share(
    model: Classifier, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = replace(model, outputs=lambda pixels: by_brightness(pixels)[:, :2], thresholds=None)
    monkeypatch.setattr(evaluating, "load", lambda source, device, **_: old)
    found = abstention(data, unknown_images=put(tmp_path / "foreign", {"a": (0, 130)}))
    assert (found.called_unknown, found.sets, found.promise) == (None, None, None)
    assert found.unknown is not None
    assert (found.unknown.auroc_of_distance, found.unknown.called_unknown, found.unknown.answered) == (None, None, 1)
    assert found.unknown.auroc_of_probability == 1
    with pytest.raises(UsageError, match="keeps no held-out answers"):
        evaluate(data, max_error=0.1)


def test_the_dictionary_is_plain(model: Classifier, data: Path) -> None:
    plain = evaluate(data, max_error=0.1).to_dict()["abstention"]
    assert plain["promise"]["interval"][0] < plain["promise"]["error"]
    assert [row["coverage"] for row in plain["risk"]] == [1.0, 0.95, 0.9, 0.8, 0.7, 0.5]
    assert math.isfinite(plain["aurc"])
    assert plain["unknown"] is None

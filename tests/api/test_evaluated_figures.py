"""The figures of evaluate against scikit-learn's, from the probabilities that predict writes for the same images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn import metrics as sk

import cnn_tl

CLASSES = ("<b>&", "=1+1", "dark", 'q"uote', "x", "y", "z")


def write_images(root: Path, seed: int) -> None:
    """Write images of seven classes that overlap, so that many answers are wrong."""
    draw = np.random.default_rng(seed)
    for k, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(6):
            pixels = np.clip(draw.normal(40 + 25 * k, 60, (6, 6, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).resize((40, 40)).save(root / name / f"{number}.png")


def test_each_figure_is_scikit_learns(settings: dict[str, Any], tmp_path: Path) -> None:
    write_images(tmp_path / "train", 0)
    write_images(tmp_path / "others", 1)
    run = cnn_tl.train(tmp_path / "train", tmp_path / "run", quiet=True, **settings)
    found = cnn_tl.evaluate(run, tmp_path / "others", wrong=tmp_path / "wrong.csv", device="cpu", quiet=True)
    answers = {
        Path(one.file).relative_to(tmp_path / "others").as_posix(): dict(one.top)
        for one in cnn_tl.predict(run, tmp_path / "others", recursive=True, top=7, device="cpu", quiet=True)
    }
    classes, files = list(found.classes), sorted(answers)
    labels_N = np.array([classes.index(file.partition("/")[0]) for file in files])
    shares_NK = np.array([[answers[file][name] for name in classes] for file in files])
    predicted_N = shares_NK.argmax(1)
    assert 0 < found.accuracy == sk.accuracy_score(labels_N, predicted_N) < 1
    assert found.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(labels_N, predicted_N))
    assert found.confusion == sk.confusion_matrix(labels_N, predicted_N, labels=range(7)).tolist()
    assert found.log_loss == pytest.approx(sk.log_loss(labels_N, shares_NK, labels=range(7)), rel=1e-4)
    for k, share in enumerate(found.top_k, start=1):
        assert share == pytest.approx(sk.top_k_accuracy_score(labels_N, shares_NK, k=k, labels=range(7)))
    for kind in ("macro", "weighted"):
        expected = sk.precision_recall_fscore_support(labels_N, predicted_N, average=kind, zero_division=0)[:3]
        mean = getattr(found, kind)
        assert (mean.precision, mean.recall, mean.f1) == pytest.approx(expected)
    columns = sk.precision_recall_fscore_support(labels_N, predicted_N, labels=range(7), zero_division=0)
    for one, expected in zip(found.per_class.values(), zip(*columns, strict=True), strict=True):
        assert (one.precision or 0, one.recall, one.f1, one.images) == pytest.approx(expected)
    with (tmp_path / "wrong.csv").open(newline="") as stream:
        listed = {row["file"].lstrip("'"): row for row in csv.DictReader(stream)}
    assert sorted(listed) == [file for file, right in zip(files, predicted_N == labels_N, strict=True) if not right]
    for file, row in listed.items():
        assert float(row["probability"]) == pytest.approx(max(answers[file].values()), abs=1e-5)
        assert float(row["probability_of_label"]) == pytest.approx(answers[file][row["label"].lstrip("'")], abs=1e-5)

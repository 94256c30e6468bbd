"""Many classes are summed up with a word on where the rest is; an accuracy at the baseline draws a warning."""

from __future__ import annotations

from typing import Any

import pytest

from cnn_tl.cli.terminal.accuracy import FEW, MANY_CLASSES, advice_after_training, show_classes, warn_if_no_better
from cnn_tl.core.formatting import percent
from cnn_tl.core.statistics import wilson_interval


def classes(count: int) -> dict[str, tuple[int, int]]:
    """Return classes of which number n has n of `count` right, and one that has no image."""
    return {f"class{n:03}": (n, count) for n in range(count)} | {"empty": (0, 0)}


def table(capsys: Any, shown: dict[str, tuple[int, int]], *, every: bool = False) -> tuple[list[list[str]], str]:
    show_classes(["right / images>"], shown, "all are elsewhere", every=every)
    out = capsys.readouterr().out
    return [line.split() for line in out.splitlines() if line.startswith((" class0", " empty", " ..."))], out


@pytest.mark.parametrize("count", [MANY_CLASSES, 60, 1000])
def test_the_worst_and_the_best_of_many_classes(capsys: pytest.CaptureFixture[str], count: int) -> None:
    shown, out = table(capsys, classes(count))
    names = [row[0] for row in shown]
    worst = [f"class{n:03}" for n in range(FEW)]
    best = [f"class{n:03}" for n in range(count - FEW, count)]
    assert names == [*worst, "...", *best][: len(names)]
    assert shown[0][1:] == ["0", "/", str(count)]
    assert f"the worst and the best {FEW} of {count + 1:,} classes are shown; all are elsewhere" in out


def test_equal_classes_are_listed_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    shown, out = table(capsys, {f"class0{number}": (0, 1) for number in range(10, 70)})
    names = [row[0] for row in shown]
    assert names == [*sorted(names[:FEW]), "...", *sorted(names[-FEW:])]
    assert f"{2 * FEW} of 60 classes are shown, which all have an accuracy of 0.0%; all are elsewhere" in out


def test_none_of_many_equal_classes_is_called_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    _, out = table(capsys, {"class000": (0, 1)} | {f"class0{number}": (1, 1) for number in range(10, 60)})
    assert f"the worst {FEW} of 51 classes are shown, and {FEW} of the 50 with 100.0%; all are elsewhere" in out


def test_few_classes_and_all_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    shown, out = table(capsys, classes(MANY_CLASSES - 1))
    assert len(shown) == MANY_CLASSES
    assert "worst" not in out
    shown, out = table(capsys, classes(60), every=True)
    assert len(shown) == 61
    assert "worst" not in out


def test_equal_shares_of_more_images_come_first_among_the_worst(capsys: pytest.CaptureFixture[str]) -> None:
    shown, _ = table(capsys, {"class000": (0, 1), "class001": (0, 9)} | {f"class0{n}": (9, 9) for n in range(10, 60)})
    assert [row[0] for row in shown[:2]] == ["class001", "class000"]


@pytest.mark.parametrize(
    ("correct", "images", "baseline", "warned"),
    [
        (25, 75, 1 / 3, True),
        (30, 75, 1 / 3, True),
        (71, 75, 1 / 3, False),
        (96, 100, 0.95, True),
        (990, 1000, 0.95, False),
        (10, 75, 1 / 3, True),
        (9, 10, 1.0, False),
    ],
)
def test_an_accuracy_at_the_baseline_is_warned_of(
    capsys: pytest.CaptureFixture[str], correct: int, images: int, baseline: float, warned: bool
) -> None:
    advice = advice_after_training("freeze", 0.9)
    warn_if_no_better(correct / images, wilson_interval(correct, images), baseline, advice)
    said = capsys.readouterr().err
    assert bool(said) == warned
    if warned:
        assert said.startswith(f"warning: an accuracy of {percent(correct / images)} is not clearly better than")
        assert "--mode lp-ft" in said
        assert "--set head.class_weights=balanced" in said


def test_advice_names_settings_that_exist() -> None:
    from cnn_tl.recipe import KEYS

    for mode, key in (("freeze", "head.class_weights"), ("finetune", "train.class_weights")):
        assert key in KEYS
        assert f"--set {key}=balanced" in " ".join(advice_after_training(mode, 0.9))
        assert "class_weights" not in " ".join(advice_after_training(mode, 0.3))

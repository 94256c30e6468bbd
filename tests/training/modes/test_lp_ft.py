"""The verdict on what fine-tuning has gained over the frozen head, image by image."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnn_tl.recipe import Recipe
from cnn_tl.training.context import Run
from cnn_tl.training.modes import lp_ft
from cnn_tl.training.modes.lp_ft import HeadStage
from cnn_tl.training.outcome import Facts, LoopFacts
from cnn_tl.training.run_folder import RunFolder

LABELS = np.array([0] * 10 + [1] * 10)


def logits_right_on(right: set[int]) -> Any:
    """Return logits [N, 2] of a model that is right on these images and on no other."""
    answers = np.array([label if n in right else 1 - label for n, label in enumerate(LABELS)])
    return np.eye(2, dtype=np.float32)[answers]


def verdict_of(frozen: set[int], tuned: set[int], mode: str = "auto", epochs: int = 1) -> dict[str, Any]:
    run = Run(Recipe.model_validate({"mode": mode}).resolve(), RunFolder(Path("run")))
    stage = HeadStage(None, logits_right_on(frozen), Facts(), 3.0)  # type: ignore[arg-type]
    facts = LoopFacts(best_epoch=1, epochs=epochs, lr=1e-3, seconds_of_the_loop=7.0, phases=[])
    return asdict(lp_ft.compare(run, LABELS, stage, logits_right_on(tuned), facts))


ALL = set(range(20))


@pytest.mark.parametrize("mode", ["auto", "lp-ft"])
def test_fine_tuning_that_gains(mode: str) -> None:
    found = verdict_of(ALL - set(range(12)), ALL - {19}, mode)
    assert (found["frozen_accuracy"], found["fine_tuned_accuracy"]) == (8 / 20, 19 / 20)
    assert (found["only_frozen_right"], found["only_fine_tuned_right"]) == (1, 12)
    assert found["gain"] == pytest.approx(11 / 20)
    assert 0 < found["interval"][0] < found["gain"] < found["interval"][1]
    assert found["p"] == pytest.approx(2 * (1 + 13) / 2**13)  # McNemar's exact form: 1 or fewer of 13 fair coins
    assert (found["more_than_chance"], found["worse_than_chance"], found["kept"]) == (True, False, "fine-tuned")


@pytest.mark.parametrize(("mode", "kept"), [("auto", "frozen"), ("lp-ft", "fine-tuned")])
def test_fine_tuning_that_spoils(mode: str, kept: str) -> None:
    found = verdict_of(ALL - {19}, ALL - set(range(12)), mode)
    assert (found["only_frozen_right"], found["only_fine_tuned_right"]) == (12, 1)
    assert found["gain"] == pytest.approx(-11 / 20)
    assert found["interval"][1] < 0
    assert (found["more_than_chance"], found["worse_than_chance"], found["kept"]) == (False, True, kept)


def test_the_best_of_many_epochs_has_to_gain_more() -> None:
    once, often = (verdict_of(ALL - set(range(8)), ALL, epochs=epochs) for epochs in (1, 10))
    assert often["p"] == pytest.approx(10 * once["p"])
    assert (once["kept"], often["kept"]) == ("fine-tuned", "frozen")

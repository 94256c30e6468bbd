"""What is printed of a plan's phases and of a result: what belongs to the model, on lines of 80 columns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.plan import plan_table
from cnn_tl.cli.terminal.result import show_result
from cnn_tl.core.progress import FeaturePlan, Plan
from cnn_tl.training.result import TrainResult

VERDICT = {
    "frozen_accuracy": 0.947, "fine_tuned_accuracy": 0.933, "gain": -0.0133, "interval": (-0.09, 0.06),
    "only_frozen_right": 12, "only_fine_tuned_right": 11, "p": 0.00123, "chosen_from_epochs": 100,
    "more_than_chance": False, "seconds_head": 80.0, "seconds_fine_tuning": 4000.0, "kept": "frozen",
}  # fmt: skip
LOOP = {"lr": 1e-3, "seconds_of_the_loop": 4000.0, "phases": []}
FEATURES = {
    "device": "a GPU",
    "computed": 300, "from_cache": 300, "way": "bf16, compiled", "batch_size": 512, "images_per_second": 12345.0,
    "decode_images_per_second": 12345.0, "forward_images_per_second": 12345.0,
}  # fmt: skip


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Any:
    def show(correct: int = 67, mode: str = "finetune", **facts: Any) -> str:
        stream = io.StringIO()
        monkeypatch.setattr(console, "out", Console(file=stream, width=80, highlight=False, soft_wrap=True))
        monkeypatch.setattr(console.show, "__defaults__", (console.out,))
        if "best_epoch" in facts:
            facts = LOOP | facts
        result = TrainResult(
            run=Path("runs/pets"), mode=mode, backbone="resnet18", accuracy=correct / 75, interval=(0.803, 0.945),
            baseline=1 / 3, baseline_class="pizza", correct=correct, images=75, per_class={"pizza": (24, 25)},
            set_aside=0, seconds=4000.0, facts=facts,
        )  # fmt: skip
        show_result(result)
        return stream.getvalue()

    return show


def words(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_head_that_was_better_alone_is_said_plainly(shown: Any) -> None:
    text = shown(best_epoch=1, epochs=1, fitted_head_accuracy=71 / 75)
    assert "fitted head alone 94.7% 71 of 75, before epoch 1" in words(text)
    assert "fine-tuning did not help here: no epoch was as good as the fitted head alone;" in words(text)
    for correct in (71, 72):
        assert "did not help" not in shown(correct, best_epoch=1, epochs=1, fitted_head_accuracy=71 / 75)


def test_corrections_are_counted(shown: Any) -> None:
    data = {"excluded": 1, "relabelled": 2, "groups": 1_234, "grouped": 123_456, "kept_apart": 123_456}
    text = shown(data=data)
    assert words(text)[6:10] == [
        "excluded 1 image by data.exclude",
        "relabelled 2 images by data.relabel",
        "groups 1,234 of 123,456 images; none crosses splits",
        "kept apart 123,456 images left out: in a group of another split",
    ]
    assert max(map(len, text.splitlines())) <= 80
    assert "excluded" not in shown(data={"excluded": 0, "groups": 3, "grouped": 6})
    assert "groups" not in shown()


def test_a_head_that_is_kept_is_said_plainly(shown: Any) -> None:
    text = words(shown(71, best_epoch=0, epochs=3, fitted_head_accuracy=71 / 75))
    assert "best epoch none of 3 kept: the fitted head, before epoch 1" in text
    assert "fine-tuning did not help here: no epoch was better than the fitted head alone," in text
    assert max(map(len, text)) <= 80


def test_the_best_epoch_is_that_of_the_model(shown: Any) -> None:
    assert "best epoch 3 of 5; this choice flatters accuracy" in words(shown(best_epoch=3, epochs=5))
    lost = words(shown(best_epoch=None, epochs=5))
    assert "last epoch 5 kept: the best weights were lost" in lost
    assert not [line for line in lost if "best epoch" in line]
    frozen = words(shown(71, best_epoch=2, epochs=3, fitted_head_accuracy=71 / 75, verdict=VERDICT))
    assert not [line for line in frozen if "best epoch" in line]
    assert "fine-tuned 93.3% in epoch 2 of 3; not kept" in frozen
    tuned = words(shown(70, best_epoch=2, epochs=3, fitted_head_accuracy=71 / 75, verdict=VERDICT | {"kept": "tuned"}))
    assert [line for line in tuned if line.startswith("best epoch 2")]


@pytest.mark.parametrize(
    ("better", "worse", "row"),
    [
        (True, False, "verdict fine-tuned better by more than chance"),
        (False, True, "verdict frozen better by more than chance"),
        (False, False, "verdict even no more than chance"),
    ],
)
def test_a_verdict_is_about_the_images_and_what_is_kept_about_the_mode(
    shown: Any, better: bool, worse: bool, row: str
) -> None:
    verdict = VERDICT | {"more_than_chance": better, "worse_than_chance": worse, "kept": "fine-tuned"}
    text = words(shown(60, mode="lp-ft", best_epoch=2, epochs=3, verdict=verdict))
    assert row in text
    assert "kept fine-tuned always in mode lp-ft" in text
    said = "fine-tuning made it worse, by more than chance; --mode freeze gives the better"
    assert (said in text) == worse
    assert max(map(len, text)) <= 80
    kept = words(shown(60, mode="auto", best_epoch=2, epochs=3, verdict=verdict | {"kept": "frozen"}))
    assert "kept frozen by the verdict" in kept
    assert said not in kept


def test_every_row_is_one_line_of_80_columns(shown: Any) -> None:
    """The third column is what grows; here it is as long as it gets."""
    facts = {"best_epoch": 100, "epochs": 100, "frozen_sha256": "d610448fb810" * 5}
    facts |= {"features": FEATURES, "head": {"seconds": 1234.5, "kind": "prototype"}}
    for kept in ("frozen", "fine-tuned"):
        lines = shown(**facts, verdict=VERDICT | {"kept": kept}).splitlines()
        assert max(map(len, lines)) <= 80
        table = lines[: next(number for number, line in enumerate(lines) if line.startswith(" class"))]
        assert not [line for line in table if line.startswith(" " * 8) and line.strip()], "no row goes on in the next"
    assert "McNemar p ≤ 0.0012 exact test, the best of 100 epochs" in words("\n".join(lines))


def test_of_a_single_epoch_nothing_was_chosen(shown: Any) -> None:
    text = words(shown(best_epoch=1, epochs=1))
    assert "epoch 1 of 1" in text
    assert not [line for line in text if "flatters" in line]
    compared = words(shown(best_epoch=1, epochs=1, fitted_head_accuracy=0.8, verdict=VERDICT | {"kept": "fine-tuned"}))
    assert "epoch 1 of 1" in compared, "lp-ft keeps it, whatever the head was worth"
    assert "best epoch 1 of 1; this choice flatters accuracy" in words(
        shown(best_epoch=1, epochs=1, fitted_head_accuracy=0.8)
    ), "the head was the other choice"


@pytest.mark.parametrize(
    ("facts", "row"),
    [
        ({}, "time 1 h 06 min"),
        ({"resumed": True}, "time 1 h 06 min since it was resumed"),
        ({"resumed": True, "verdict": VERDICT, "best_epoch": 2, "epochs": 3},
         "time 1 h 06 min since it was resumed; cost: all starts"),
    ],
)  # fmt: skip
def test_a_resumed_run_says_which_time_it_tells(shown: Any, facts: dict[str, Any], row: str) -> None:
    assert row in words(shown(**facts))


def test_one_feature_and_no_time_are_said_as_such(shown: Any) -> None:
    features = FEATURES | {"computed": 1}
    text = shown(correct=1, features=features, head={"seconds": 0.001, "kind": "ridge"})
    assert "both together, 1 feature\n" in text
    assert "under 0.01 s" in text


@pytest.mark.parametrize(
    ("mode", "features", "said"),
    [
        ("freeze", FeaturePlan(0, 300, 0), "all 300 come from the cache; no image is decoded"),
        ("lp-ft", FeaturePlan(0, 300, 0), "all 300 come from the cache"),
        ("auto", FeaturePlan(1, 299, 2_000), "299 come from the cache, 1 is computed and takes 2.0 kB in the cache"),
        ("freeze", FeaturePlan(3, 0, 0), "3 are computed, for this run only"),
    ],
)
def test_a_plan_says_what_becomes_of_the_features(mode: str, features: FeaturePlan, said: str) -> None:
    text = planned(mode, features)
    assert f"features {said}" in words(text)
    assert words(text)[1] == "1 class train val"


def test_a_plan_of_many_classes_says_how_many_it_does_not_list() -> None:
    lines = words(planned("freeze", FeaturePlan(3, 0, 0), classes=1_234))
    assert lines.count("class29 1 1") == 1
    assert "class30 1 1" not in lines
    assert "and 1,204 more" in lines
    assert "total 1,234 1,234" in lines


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, "under 1 s"), (0.4, "under 1 s"), (0.6, "about 1 s")])
def test_a_plan_gives_whole_seconds(seconds: float, expected: str) -> None:
    assert f"expected {expected}" in words(planned("freeze", FeaturePlan(3, 0, 0), seconds=seconds))


def planned(mode: str, features: FeaturePlan, classes: int = 1, seconds: float = 0.0) -> str:
    counts = {f"class{number}": {"train": 1, "val": 1, "test": 0} for number in range(classes)}
    plan = Plan(
        mode=mode, data="pets", layout="train + val", counts=counts, set_aside=0,
        backbone="resnet18", weights="none", image_size=(64, 64), trainable=1, total=2, device="cpu", precision="fp32",
        schedule="", phases=None, features=features, images=None, sources=None, seconds=seconds, output="runs/pets",
    )  # fmt: skip
    stream = io.StringIO()
    Console(file=stream, width=120).print(plan_table(plan))
    return stream.getvalue()

"""What a larger backbone would bring is printed where it was measured, and says what was measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import cnn_tl.guides
from cnn_tl import recipe
from cnn_tl.cli.terminal.larger_backbone import GAINS, LARGER, larger_backbone
from cnn_tl.training.result import TrainResult


def lines(correct: int = 71, device: str | None = "cpu (2 threads)", **flags: Any) -> list[str]:
    chosen = recipe.load(None, [], {"data.path": "pets"} | flags)
    result = TrainResult(
        run=Path("runs/pets"), mode=chosen.mode, backbone=chosen.model.name, accuracy=correct / 75, interval=(0.8, 1.0),
        baseline=1 / 3, baseline_class="cat", correct=correct, images=75, per_class={}, set_aside=0, seconds=3.0,
        facts={"features": {"device": device}} if device else {},
    )  # fmt: skip
    return larger_backbone(chosen, result)


def test_one_line_with_the_figures_of_the_guide() -> None:
    line = lines()[0]
    said = r"--model (\w+) takes twice as long: (\S+) points on average over (\d+) data sets \((\S+) to (\S+)\)"
    found = re.fullmatch(said, line)
    assert found, line
    name, mean, sets, least, most = found.groups()
    guide = (Path(cnn_tl.guides.__file__).parent / "models.md").read_text("utf-8")
    assert (name, int(sets)) == (LARGER, len(GAINS))
    table = guide.partition("gain of lite2")[2].partition("\n\n")[0]
    shown = [float(gain) for gain in re.findall(r"\| ([+-]\d+\.\d+) \(\d+\.\d+\) \|$", table, flags=re.MULTILINE)]
    assert shown == pytest.approx([100 * gain for gain in GAINS])
    figures = [sum(shown) / len(shown), min(shown), max(shown)]
    assert [float(mean), float(least), float(most)] == pytest.approx(figures, abs=0.051)


def test_names_the_command_that_measures_it_on_these_images() -> None:
    assert lines()[1:] == ["on these images: cnn-tl recommend pets"]
    assert lines(**{"data.path": "my pets"})[1:] == ["on these images: cnn-tl recommend 'my pets'"]


@pytest.mark.parametrize(
    "case",
    [
        {"correct": 75},
        {"device": "NVIDIA H100"},
        {"device": None},
        {"mode": "finetune"},
        {"mode": "lp-ft"},
        {"model.name": LARGER},
        {"model.name": "resnet18"},
        {"model.weights": "own.safetensors"},
        {"model.image_size": 128},
    ],
    ids=str,
)
def test_nothing_is_said_where_it_was_not_measured(case: dict[str, Any]) -> None:
    assert lines() != []
    assert lines(**case) == []


def test_train_prints_it_before_the_next_commands(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnn_tl.cli.commands import train

    monkeypatch.setattr(train, "larger_backbone", lambda *_: ["a larger one"])
    chosen = recipe.load(None, [], {"data.path": "pets"})
    result = TrainResult(
        run=Path("runs/pets"), mode="freeze", backbone="x", accuracy=0.9, interval=(0.8, 1.0), baseline=0.5,
        baseline_class="cat", correct=9, images=10, per_class={"cat": (9, 10)}, set_aside=0, seconds=3.0, facts={},
    )  # fmt: skip
    printed: list[str] = []
    monkeypatch.setattr("cnn_tl.cli.terminal.console.say", lambda text="": printed.append(text))
    train._show(chosen, result, as_json=False)
    place = printed.index("a larger one")
    assert printed[place + 1 : place + 3] == ["", "next:"]
    printed.clear()
    train._show(chosen, result, as_json=True)
    assert printed == []

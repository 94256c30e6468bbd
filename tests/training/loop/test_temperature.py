"""A trained network's temperature: it lies in the classifier's weights, changes no answer, and costs no sureness."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from whole_runs import final_weights

from cnn_tl.api.prediction import predict
from cnn_tl.core.errors import RecipeError
from cnn_tl.recipe import Recipe, load
from cnn_tl.training import backbone_graph
from cnn_tl.training.loop.temperature import divide_by_temperature
from cnn_tl.training.run import train

Make = Callable[..., Recipe]


def validation(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "validation.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("mode", ["finetune", "lp-ft", "scratch"])
def test_only_the_classifier_is_divided(recipe: Make, tmp_path: Path, mode: str) -> None:
    fitted = train(recipe(mode), tmp_path / "fitted")
    train(recipe(mode, train={"temperature": "none"}), tmp_path / "none")
    found = fitted.facts["temperature"]
    assert found["val_loss"] <= found["val_loss_before"]
    assert (found["value"] == 1) == (mode != "scratch")  # every image right, and sure of it, asks for nothing
    before, after = final_weights(tmp_path / "none"), final_weights(tmp_path / "fitted")
    for name, tensor in before.items():
        assert torch.allclose(after[name], tensor / found["value"] if name.startswith("fc.") else tensor)
    rows, plain = validation(tmp_path / "fitted"), validation(tmp_path / "none")
    assert [row["predicted"] for row in rows] == [row["predicted"] for row in plain]
    changed = [row["probability"] for row in rows] != [row["probability"] for row in plain]
    assert changed == (found["value"] != 1)


def test_predict_is_as_sure_as_the_run_said(
    recipe: Make, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last digit that is written: onnxruntime has computed both."""
    monkeypatch.setattr(backbone_graph, "CLEARLY", 0.0)  # however slow it is just now
    run = train(recipe("finetune"), tmp_path / "run").run
    assert (run / "model" / "graph.onnx").is_file()
    rows = validation(run)
    answers = predict(run, [data / row["file"] for row in rows])
    assert [round(float(answer.probability or 0), 6) for answer in answers] == [row["probability"] for row in rows]


def test_a_frozen_head_needs_none(recipe: Make, tmp_path: Path) -> None:
    assert "temperature" not in train(recipe("freeze"), tmp_path / "run").facts
    kept = train(recipe("auto"), tmp_path / "auto")
    assert ("temperature" in kept.facts) == (kept.facts["verdict"]["kept"] == "fine-tuned")
    with pytest.raises(RecipeError, match=r"train\.temperature has no effect with mode: freeze"):
        load(None, ["train.temperature=fitted"])


class Odd(nn.Module):
    """Squashes what its classifier gives, which no temperature passes through."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2, bias=False)
        nn.init.eye_(self.fc.weight)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.fc(x)).tanh()


@pytest.mark.parametrize("trains", [True, False])
def test_a_classifier_that_cannot_be_divided_stays_as_it_is(trains: bool) -> None:
    notes: list[str] = []

    model, x = Odd(), torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    model.fc.requires_grad_(trains)
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        logits = model(x)
        result, temperature = divide_by_temperature(
            model, "odd", logits, np.arange(8) % 2, lambda: cast(Tensor, model(x)), notes.append
        )
    assert torch.equal(result, logits)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    assert temperature is None
    [note] = notes
    assert "temperature stays 1" in note

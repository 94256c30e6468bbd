"""What a training loop leaves of its validation images: features of the kept weights, and from them the evidence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from whole_runs import StopAfter, assert_same_evidence

from cnn_tl.abstention.distance_fit import fit_with_held_out
from cnn_tl.abstention.evidence import Evidence
from cnn_tl.core.errors import Stopped, UsageError
from cnn_tl.networks import backbone, bundle
from cnn_tl.networks.graph.trace import NoGraphError
from cnn_tl.recipe import Recipe
from cnn_tl.training import backbone_graph
from cnn_tl.training.loop import loop
from cnn_tl.training.run import train

Make = Callable[..., Recipe]
KEEP_TRAINING = {"train": {"head_start": "random", "temperature": "none"}}


@pytest.fixture
def in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def trace(network: object) -> bytes:
        raise NoGraphError("not in these tests")

    monkeypatch.setattr(backbone_graph, "trace", trace)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[loop.Trained]:
    """Return the list of what loops return from now on."""
    found: list[loop.Trained] = []
    real = loop.Loop.run

    def run(self: loop.Loop) -> loop.Trained:
        found.append(real(self))
        return found[-1]

    monkeypatch.setattr(loop.Loop, "run", run)
    return found


def evidence_in(run: Path) -> Evidence:
    found = bundle.load(run / "model").evidence
    assert found is not None
    return found


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
@pytest.mark.parametrize("settings", [{}, KEEP_TRAINING, {"train": {"ema": 0.9, "head_start": "random"}}])
def test_features_and_logits_are_those_of_the_kept_weights(
    recipe: Make,
    tmp_path: Path,
    trained: list[loop.Trained],
    request: pytest.FixtureRequest,
    settings: dict[str, Any],
    engine: str,
) -> None:
    if engine == "torch":
        request.getfixturevalue("in_torch")
    train(recipe("finetune", **settings), tmp_path / "run")
    features, logits = trained[0].features, trained[0].logits
    assert features is not None
    kept = bundle.load(tmp_path / "run" / "model").model
    assert torch.allclose(backbone.classify(kept, features), logits, atol=1e-4)
    assert features.shape == (len(logits), backbone.linear_classifier(kept).in_features)
    assert logits.is_contiguous()


def test_it_learns_distances_from_the_validation_images(
    recipe: Make, tmp_path: Path, trained: list[loop.Trained]
) -> None:
    train(recipe("finetune", **KEEP_TRAINING), tmp_path / "run")
    found = evidence_in(tmp_path / "run")
    assert found.source == "validation"
    assert found.images == len(trained[0].logits)
    features = trained[0].features
    assert features is not None
    assert found.distance is not None
    assert found.distances_n is not None
    again, held_out = fit_with_held_out(features.numpy(), found.labels_n, 3)
    assert np.array_equal(found.distances_n, held_out)
    assert np.array_equal(found.distance(features.numpy()), again(features.numpy()))
    noise = np.random.default_rng(0).random((20, features.shape[1]), np.float32)
    assert (found.distance(noise) > np.nanmax(held_out)).all()


def test_a_frozen_head_that_is_kept_has_its_own_evidence_also_after_a_resume(recipe: Make, tmp_path: Path) -> None:
    auto = recipe("auto", train={"lr": 1e-7})
    with pytest.raises(Stopped):
        train(auto, tmp_path / "run", observer=StopAfter("epoch 2", 9))
    result = train(auto, tmp_path / "run", resume=True)
    assert result.facts["verdict"]["kept"] == "frozen"
    assert evidence_in(tmp_path / "run").source == "training"
    train(auto, tmp_path / "undisturbed")
    assert_same_evidence(tmp_path / "run", tmp_path / "undisturbed")


def test_lp_ft_has_the_evidence_of_its_validation_images(recipe: Make, tmp_path: Path) -> None:
    train(recipe("lp-ft"), tmp_path / "run")
    found = evidence_in(tmp_path / "run")
    assert found.source == "validation"
    assert found.distance is not None


@pytest.mark.parametrize(
    ("name", "features", "settings"), [("lenet5", 84, {}), ("googlenet", 1024, {"aux_weight": 0.3})]
)
def test_from_scratch_with_a_classic(
    recipe: Make, tmp_path: Path, in_torch: None, name: str, features: int, settings: dict[str, Any]
) -> None:
    model = {"name": name, "image_size": 32}
    train(recipe("scratch", model=model, train={"epochs": 1} | settings), tmp_path / "run")
    found = evidence_in(tmp_path / "run")
    assert found.distance is not None
    assert found.distance.means.shape == (3, features)


def test_a_network_that_does_more_after_its_features_has_no_distance(
    recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_torch: None
) -> None:
    def more(network: object) -> int:
        raise UsageError("it does more")

    monkeypatch.setattr(backbone, "require_linear_classifier", more)
    train(recipe("finetune"), tmp_path / "run")
    found = evidence_in(tmp_path / "run")
    assert found.distance is None
    assert found.source == "validation"
    assert found.images > 0

"""What a run writes about itself keeps the keys that result.json has always had."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any, cast

import pytest

from cnn_tl.networks.info import Remembered
from cnn_tl.recipe import Recipe
from cnn_tl.training.context import Run
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.outcome import (
    ActivationReads,
    Facts,
    FeatureReads,
    HeadFit,
    ImageReads,
    LoopFacts,
    Temperature,
    Verdict,
)
from cnn_tl.training.run_folder import RunFolder

OLDER_RUNS = Path(__file__).parents[1] / "fixtures/runs_0_1"
FEATURES = {"computed": 9, "from_cache": 0, "way": "fp32", "device": "a CPU", "batch_size": 16}
RATES = {"decode_images_per_second": 5.0, "forward_images_per_second": 4.0, "images_per_second": 3.0}
HEAD = {"kind": "lbfgs", "penalty": 0.1, "converged": True}
LOOP = {"best_epoch": 2, "epochs": 3, "lr": 1e-4, "seconds_of_the_loop": 7.5, "phases": [{"epoch": 1}]}


def loop(**more: Any) -> LoopFacts:
    return LoopFacts(**LOOP, **more)  # type: ignore[arg-type]


def test_a_frozen_run() -> None:
    facts = Facts(FeatureReads(**FEATURES, **RATES), HeadFit(HEAD, 0.25), frozen_sha256="ab")  # type: ignore[arg-type]
    assert facts.to_dict() == {
        "features": FEATURES | RATES,
        "head": HEAD | {"seconds": 0.25},
        "frozen_sha256": "ab",
    }
    assert Facts(features=FeatureReads(**FEATURES)).to_dict() == {"features": FEATURES}  # type: ignore[arg-type]


def test_a_loop_says_only_what_has_happened() -> None:
    assert Facts(loop=loop()).to_dict() == LOOP
    lost = Facts(loop=LoopFacts(**LOOP | {"best_epoch": None})).to_dict()  # type: ignore[arg-type]
    assert lost == LOOP | {"best_epoch": None}, "null says that the weights of the best epoch were lost"
    everything = loop(
        images=ImageReads(1, 2, 3), activations=ActivationReads(kept=False, reason="no room"),
        fitted_head_accuracy=0.0, ended_early="no better epoch in 2", micro_batch=4, frozen_sha256="cd",
        temperature=Temperature(1.5, 0.4, 0.3),
    )  # fmt: skip
    assert Facts(loop=everything, resumed=True).to_dict() == LOOP | {
        "images": {"decoded": 1, "from_cache": 2, "decoded_in_each_epoch": 3},
        "activations": {"kept": False, "reason": "no room"},
        "fitted_head_accuracy": 0.0,
        "ended_early": "no better epoch in 2",
        "micro_batch": 4,
        "frozen_sha256": "cd",
        "temperature": {"value": 1.5, "val_loss_before": 0.4, "val_loss": 0.3},
        "resumed": True,
    }


def test_facts_are_read_back_from_json() -> None:
    everything = Facts(
        features=FeatureReads(**FEATURES, **RATES),  # type: ignore[arg-type]
        head=HeadFit(HEAD, 0.25),
        loop=loop(images=ImageReads(1, 2, 3), activations=ActivationReads(True, None, "layer3", 2, 9), micro_batch=4,
                  fitted_head_accuracy=0.5, ended_early="early", temperature=Temperature(1.5, 0.4, 0.3)),
        verdict=Verdict(0.5, 0.75, 0.25, (0.1, 0.4), 1, 6, 0.01, 3, True, False, 2.0, 60.0, "fine-tuned"),
        frozen_sha256="ab",
        resumed=True,
    )  # fmt: skip
    for facts in (everything, Facts(), Facts(loop=LoopFacts(**LOOP | {"best_epoch": None}))):  # type: ignore[arg-type]
        assert Facts.from_dict(json.loads(json.dumps(facts.to_dict()))) == facts


def test_facts_of_older_runs_are_read() -> None:
    for path in sorted(OLDER_RUNS.glob("*/result.json")):
        stored = json.loads(path.read_text())["facts"]
        facts = Facts.from_dict(stored)
        images = stored.pop("pictures", None)
        assert facts.to_dict() == stored | ({"images": images} if images else {})
    verdict = Verdict(0.5, 0.75, 0.25, (0.1, 0.4), 1, 6, 0.01, 1, True, False, 2.0, 60.0, "fine-tuned")
    first = Facts(verdict=verdict).to_dict()
    del first["verdict"]["chosen_from_epochs"], first["verdict"]["worse_than_chance"]
    assert Facts.from_dict(first | {"unknown": 1}).verdict == verdict


def test_damaged_facts_are_refused() -> None:
    for damaged in ({"head": {}}, {"verdict": {"interval": [0, 1]}}, {"features": {"computed": 1}}):
        with pytest.raises((KeyError, TypeError)):
            Facts.from_dict(damaged)


def test_the_proof_of_a_kept_backbone_takes_the_place_of_the_loops() -> None:
    facts = Facts(loop=loop(frozen_sha256="of the loop"), frozen_sha256="of the backbone")
    assert facts.to_dict()["frozen_sha256"] == "of the backbone"


def test_a_verdict_survives_json() -> None:
    verdict = Verdict(0.5, 0.75, 0.25, (0.1, 0.4), 1, 6, 0.01, 3, True, False, 2.0, 60.0, "fine-tuned")
    stored = json.loads(json.dumps(Facts(verdict=verdict).to_dict()))["verdict"]
    assert Verdict(**stored | {"interval": tuple(stored["interval"])}) == verdict


def test_a_fitted_head_is_read_back() -> None:
    fit = HeadFit(HEAD, 0.25)
    assert HeadFit.from_dict(json.loads(json.dumps(fit.to_dict()))) == fit


def test_nothing_changes_a_run() -> None:
    run = Run(Recipe().resolve(), RunFolder(Path("run")))
    with pytest.raises(FrozenInstanceError):
        run.recipe = run.recipe  # type: ignore[misc]


def test_a_network_is_built_when_first_needed_and_once() -> None:
    made: list[object] = []
    network = LazyNetwork(cast(Remembered, None), Path("memory"), lambda: made.append(object()) or made[-1])  # type: ignore[arg-type, func-returns-value, return-value]
    assert not network.is_built
    assert network.build() is network.build() is made[0]
    network.rebuild()
    assert network.build() is made[1]
    assert len(made) == 2


@pytest.mark.parametrize(("best", "kept", "epoch"), [(2, None, 2), (0, None, 0), (None, None, 3), (2, "frozen", 0)])
def test_the_kept_epoch_is_the_best_or_the_last_if_that_was_lost(
    best: int | None, kept: str | None, epoch: int
) -> None:
    verdict = None if kept is None else Verdict(0.9, 0.9, 0.0, (0, 0), 0, 0, 1.0, 1, False, False, 1.0, 1.0, kept)
    found = Facts(loop=LoopFacts(**LOOP | {"best_epoch": best}), verdict=verdict)  # type: ignore[arg-type]
    assert found.kept_epoch(3) == epoch
    assert Facts().kept_epoch(3) is None

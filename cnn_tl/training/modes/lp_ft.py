"""Modes `lp-ft` and `auto`: mode freeze, then fine-tuning from its head, then a comparison of the two.

Fine-tuning with a random head distorts the pretrained features (Kumar et al. 2022, "Fine-tuning can distort pretrained
features and underperform out-of-distribution"). Starting from a fitted head avoids that.

The fitted head is saved as a checkpoint, so a resumed run goes straight to the loop.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cnn_tl.abstention.evidence import Evidence
from cnn_tl.core.device import Precision
from cnn_tl.core.errors import ArtefactError
from cnn_tl.core.progress import Plan
from cnn_tl.core.statistics import compare_paired
from cnn_tl.heads import FittedHead
from cnn_tl.heads.problem import linear_head
from cnn_tl.networks import backbone
from cnn_tl.recipe.resolved import FreezeRecipe, LpFtRecipe
from cnn_tl.training.checkpoints import checkpoint
from cnn_tl.training.checkpoints.checkpoint import Checkpoint
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.estimate import Planned
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.loop import loop
from cnn_tl.training.modes import finetune, freeze
from cnn_tl.training.modes.freeze import FrozenFeatures
from cnn_tl.training.outcome import Facts, Logits, LoopFacts, Outcome, Verdict

_HEAD = "head"
"""Name of the checkpoint that holds the fitted head, and of the head's tensors in it."""

_EVIDENCE = "evidence"
"""Name of the arrays of its evidence in that checkpoint."""


@dataclass(frozen=True)
class Stages:
    """What the plan hands to the run: the frozen features for the head, and the precision of the loop."""

    features: FrozenFeatures
    precision: Precision


@dataclass(frozen=True)
class HeadStage:
    """A fitted head, its validation logits [N, K] on the frozen backbone, and how many seconds the stage took.

    Attributes:
        evidence: of its held-out images; None in a run that an earlier version began.
    """

    head: FittedHead
    logits: Logits
    facts: Facts
    seconds: float
    evidence: Evidence | None = None


def plan(run: Run[LpFtRecipe], dataset: Dataset[LpFtRecipe], network: LazyNetwork) -> Planned[Stages]:
    """Plan both stages; a plan that writes nothing decodes every image once."""
    features = _look_up(run, dataset, network)
    if not run.writes and dataset.check_images(keep=False).any_broken:
        features = _look_up(run, dataset, network)
    planned = finetune.plan_loop(run, dataset, network)
    return Planned(_add_head(run, dataset, network, features, planned.shown), Stages(features, planned.work))


def _look_up(run: Run[LpFtRecipe], dataset: Dataset[LpFtRecipe], network: LazyNetwork) -> FrozenFeatures:
    head_run = head_only(run)
    return freeze.look_up(head_run, dataset.of(head_run), network)


def _add_head(
    run: Run[LpFtRecipe], dataset: Dataset[LpFtRecipe], network: LazyNetwork, features: FrozenFeatures, loop: Plan
) -> Plan:
    """Return the plan of the loop with the stage of the head added in front."""
    seconds = freeze.embedding_seconds(run, network, features)
    kind = freeze.head_kind(run, dataset, network, features)
    return replace(
        loop,
        schedule=f"the head ({kind}) on frozen features, then {loop.schedule}",
        features=freeze.feature_plan(run, network, features),
        seconds=loop.seconds + seconds + freeze.head_seconds(run, dataset, network, features),
    )


def run(run: Run[LpFtRecipe], dataset: Dataset[LpFtRecipe], network: LazyNetwork, stages: Stages) -> Outcome:
    """Fit the head, fine-tune from it, and compare the two models on the validation images.

    Mode `lp-ft` keeps the fine-tuned model. Mode `auto` keeps it if the gain is more than chance, and otherwise the
    frozen backbone with its head.

    Raises:
        The errors of `freeze.run` and `loop.train`.
    """
    frozen = _fit_head(run, dataset, network, stages.features)
    weight, bias = (torch.from_numpy(frozen.head.tensors[name]) for name in ("weight", "bias"))
    with checkpoint.reporting_mismatch(run.folder.checkpoints):
        backbone.set_linear_classifier(network.model, weight, bias)
    tuned = loop.train(run, dataset, network, stages.precision, torch.from_numpy(frozen.logits))
    logits = tuned.logits.numpy()
    verdict = compare(run, dataset.manifest.labels("val"), frozen, logits, tuned.facts)
    facts = replace(frozen.facts, loop=tuned.facts, verdict=verdict)
    if verdict.kept == "fine-tuned":
        evidence = run.world.first(lambda: finetune.evidence_of_trained(run, dataset, tuned))
        return Outcome(logits, facts, evidence=evidence)
    network.rebuild()  # the weights from before fine-tuning
    facts = replace(facts, loop=replace(tuned.facts, temperature=None))  # it belongs to the fine-tuned model
    return Outcome(frozen.logits, facts, frozen.head, frozen.evidence)


def _fit_head(
    run: Run[LpFtRecipe], dataset: Dataset[LpFtRecipe], network: LazyNetwork, features: FrozenFeatures
) -> HeadStage:
    """Fit the head, or load it if an earlier start of this run has fitted it."""
    folder = run.folder.checkpoints / _HEAD
    kept = run.world.first(lambda: _read(folder))
    if kept is None:
        started, head_run = time.monotonic(), head_only(run)
        outcome = freeze.run(head_run, dataset.of(head_run), network, features)
        kept = run.world.first(lambda: _keep(folder, outcome, round(time.monotonic() - started, 2)))
    stored = kept.state["facts"]
    tensors = {name: tensor.numpy() for name, tensor in kept.tensors[_HEAD].items()}
    arrays = {name: tensor.numpy() for name, tensor in kept.tensors.get(_EVIDENCE, {}).items()}
    return HeadStage(
        head=linear_head(tensors["weight"], tensors["bias"], stored["head"]),
        logits=kept.tensors["validation"]["logits"].numpy(),
        facts=Facts.from_dict(stored),
        seconds=kept.state["seconds"],
        evidence=Evidence.from_arrays(arrays, len(dataset.manifest.classes)) if arrays else None,
    )


def _read(folder: Path) -> Checkpoint | None:
    try:
        return checkpoint.load(folder)
    except ArtefactError:
        return None  # none yet, or damaged; fitting again is quick, as the features are cached


def _keep(folder: Path, outcome: Outcome, seconds: float) -> Checkpoint:
    """Write the fitted head as a checkpoint."""
    assert outcome.head is not None, "mode freeze returns one"
    parts = {name: torch.from_numpy(np.ascontiguousarray(outcome.head.tensors[name])) for name in ("weight", "bias")}
    facts = outcome.facts.to_dict()
    groups = {_HEAD: parts, "validation": {"logits": torch.from_numpy(np.ascontiguousarray(outcome.logits))}}
    if outcome.evidence is not None:
        arrays = outcome.evidence.arrays()
        groups[_EVIDENCE] = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    point = Checkpoint(
        groups,
        {"facts": {name: facts[name] for name in ("head", "features")}, "seconds": seconds},
    )
    checkpoint.save(folder, point)
    return point


def compare(
    run: Run[LpFtRecipe], labels_N: NDArray[np.int64], frozen: HeadStage, logits: Logits, facts: LoopFacts
) -> Verdict:
    """Compare the fine-tuned model to the frozen one by their validation logits [N, K], and decide which is kept."""
    frozen_right, tuned_right = _right(frozen.logits, labels_N), _right(logits, labels_N)
    # no best epoch: its weights were lost and the last epoch is kept, so none was chosen
    epochs = facts.epochs if facts.best_epoch is not None else 1
    compared = compare_paired(frozen_right, tuned_right, chosen_from=epochs)
    better = compared.more_than_chance
    return Verdict(
        frozen_accuracy=float(frozen_right.mean()),
        fine_tuned_accuracy=float(tuned_right.mean()),
        gain=compared.gain,
        interval=compared.interval,
        only_frozen_right=compared.only_first,
        only_fine_tuned_right=compared.only_second,
        p=compared.p,
        chosen_from_epochs=epochs,
        more_than_chance=better,
        worse_than_chance=compared.worse_than_chance,
        seconds_head=frozen.seconds,
        seconds_fine_tuning=facts.seconds_of_the_loop,
        kept="fine-tuned" if better or run.recipe.mode == "lp-ft" else "frozen",
    )


def _right(logits: Logits, labels_N: NDArray[np.int64]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray(logits.argmax(1) == labels_N)


def head_only(run: Run[LpFtRecipe]) -> Run[FreezeRecipe]:
    """Return the run of the first stage, a mode-freeze run on one plain view of each image."""
    return Run(
        run.recipe.head_only(), run.folder, run.observer, run.world, run.stop, run.tracking, run.is_resumed, run.writes
    )

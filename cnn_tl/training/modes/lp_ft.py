"""Modes `lp-ft` and `auto`: first the head on frozen features, then everything from there; and what that gained.

Fine-tuning under a random head spoils the features that it starts from (Kumar et al. 2022, "Fine-tuning can distort
pretrained features and underperform out-of-distribution"); under a fitted one it need not.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from cnn_tl.core.errors import ArtefactError
from cnn_tl.core.statistics import compare_paired
from cnn_tl.heads import FittedHead
from cnn_tl.heads.problem import linear_head
from cnn_tl.networks import backbone
from cnn_tl.recipe.resolved import FreezeRecipe, LpFtRecipe
from cnn_tl.training.checkpoints import checkpoint
from cnn_tl.training.checkpoints.checkpoint import Checkpoint
from cnn_tl.training.context import Logits, Session
from cnn_tl.training.modes import finetune, freeze
from cnn_tl.training.modes.freeze import Preparation

_HEAD = "head"


@dataclass(frozen=True)
class HeadStart:
    """A fitted head, the validation logits [N, K] that it gives on the frozen backbone, and what it took."""

    head: FittedHead
    logits: Logits
    seconds: float


def prepare(session: Session[LpFtRecipe], *, write: bool = True) -> Preparation:
    """Look up what the head's fit needs, as mode freeze does."""
    with _as_freeze(session) as frozen:
        return freeze.prepare(frozen, write=write)


def train(session: Session[LpFtRecipe], prepared: Preparation) -> Logits:
    """Fit the head, fine-tune from it, judge what that gained; return the validation logits [N, K] of what is kept.

    Mode `lp-ft` keeps the fine-tuned model. Mode `auto` keeps it where the gain is more than chance, and otherwise the
    frozen backbone with its head, which is then left in `session.head`.

    Raises:
        The errors of `freeze.train` and `finetune.train`.
    """
    start = _head_start(session, prepared)
    session.head = None
    weight, bias = (torch.from_numpy(start.head.tensors[name]) for name in ("weight", "bias"))
    with checkpoint.fitting(session.run.checkpoints):
        backbone.set_linear_classifier(session.network.model, weight, bias)
    logits = finetune.train(session, torch.from_numpy(start.logits)).numpy()
    verdict = _verdict(session, start, logits)
    session.facts["verdict"] = verdict
    if verdict["kept"] == "fine-tuned":
        return logits
    session.facts.pop("temperature", None)  # the fine-tuned model's
    session.network = session.build()  # as it was before it was fine-tuned
    session.head = start.head
    return start.logits


def _head_start(session: Session[LpFtRecipe], prepared: Preparation) -> HeadStart:
    """Fit the head, or after an interruption read the one that was fitted."""
    folder, world = session.run.checkpoints / _HEAD, session.world
    kept = world.first(lambda: _kept(folder))
    if kept is None:
        started = time.monotonic()
        with _as_freeze(session) as frozen:
            logits = freeze.train(frozen, prepared)
        kept = world.first(lambda: _keep(session, folder, logits, round(time.monotonic() - started, 2)))
    session.facts |= kept.state["facts"]
    tensors = {name: tensor.numpy() for name, tensor in kept.tensors[_HEAD].items()}
    fitted = linear_head(tensors["weight"], tensors["bias"], kept.state["facts"]["head"])
    return HeadStart(fitted, kept.tensors["validation"]["logits"].numpy(), kept.state["seconds"])


def _kept(folder: Path) -> Checkpoint | None:
    try:
        return checkpoint.load(folder)
    except ArtefactError:
        return None  # there is none yet, or it is damaged: the features are at hand, so it is soon fitted again


def _keep(session: Session[LpFtRecipe], folder: Path, logits: Logits, seconds: float) -> Checkpoint:
    head = session.head
    assert head is not None, "mode freeze leaves one"
    parts = {name: torch.from_numpy(np.ascontiguousarray(head.tensors[name])) for name in ("weight", "bias")}
    facts = {name: session.facts[name] for name in ("head", "features")}
    point = Checkpoint(
        {_HEAD: parts, "validation": {"logits": torch.from_numpy(np.ascontiguousarray(logits))}},
        {"facts": facts, "seconds": seconds},
    )
    checkpoint.save(folder, point)
    return point


def _verdict(session: Session[LpFtRecipe], start: HeadStart, logits: Logits) -> dict[str, Any]:
    """Say what fine-tuning gained over the frozen head, how sure that is, and what it cost."""
    frozen_right, tuned_right = _right(session, start.logits), _right(session, logits)
    was_chosen = session.facts["best_epoch"] is not None  # else it is the last: the weights of the best were lost
    epochs = session.facts["epochs"] if was_chosen else 1
    compared = compare_paired(frozen_right, tuned_right, chosen_from=epochs)
    better = compared.more_than_chance
    return {
        "frozen_accuracy": float(frozen_right.mean()),
        "fine_tuned_accuracy": float(tuned_right.mean()),
        "gain": compared.gain,
        "interval": compared.interval,
        "only_frozen_right": compared.only_first,
        "only_fine_tuned_right": compared.only_second,
        "p": compared.p,
        "chosen_from_epochs": epochs,
        "more_than_chance": better,
        "worse_than_chance": compared.worse_than_chance,
        "seconds_head": start.seconds,
        "seconds_fine_tuning": session.facts["seconds_of_the_loop"],
        "kept": "fine-tuned" if better or session.recipe.mode == "lp-ft" else "frozen",
    }


def _right(session: Session[LpFtRecipe], logits: Logits) -> np.ndarray[Any, np.dtype[np.bool_]]:
    return np.asarray(logits.argmax(1) == session.manifest.labels("val"))


@contextmanager
def _as_freeze(session: Session[LpFtRecipe]) -> Iterator[Session[FreezeRecipe]]:
    """Let the session be one of mode freeze inside the body: one plain view of each image, no loop."""
    whole = session.recipe
    frozen = cast(Session[FreezeRecipe], session)
    frozen.recipe = whole.head_only()
    vars(session).pop("images", None)  # what is kept of them depends on the mode
    try:
        yield frozen
    finally:
        session.recipe = whole
        vars(session).pop("images", None)

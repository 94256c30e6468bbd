"""Heads that are fitted on the features of a frozen backbone: one file per kind, and the table `HEADS`.

Only `adamw`, and fits of `lbfgs` and `ridge` on a GPU (`arrays.py`), need torch, and load it when they begin.
Classifiers that are modules of a network are in `networks/head_modules.py`; the training of whole networks is in
`training/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from cnn_tl.core.choices import HeadKind
from cnn_tl.heads.auto import choose
from cnn_tl.heads.logistic import fit_logistic
from cnn_tl.heads.neighbours import fit_neighbours
from cnn_tl.heads.problem import FittedHead, Problem, Views, class_weights
from cnn_tl.heads.prototype import fit_prototype
from cnn_tl.heads.ridge import fit_ridge
from cnn_tl.heads.stacking import fit_both
from cnn_tl.recipe.defaults import HEAD_DEFAULTS
from cnn_tl.recipe.resolved import AdamwHead, AutoHead

__all__ = ["HEADS", "FittedHead", "Problem", "Views", "class_weights"]


def _fit_adamw(problem: Problem, settings: AdamwHead) -> FittedHead:
    from cnn_tl.heads.adamw import fit_adamw

    return fit_adamw(problem, settings)


def _fit_auto(problem: Problem, settings: AutoHead) -> FittedHead:
    """Fit lbfgs and ridge, or ridge alone, whichever suits the size of the problem; the facts say which, and why."""
    first = problem.views[0]
    if len(problem.views) == 1:
        problem = replace(problem, views=[first])  # the cache checks what it reads, each time
    choice = choose(len(problem.labels), len(problem.views), first.shape[1], problem.num_classes)
    own = HEAD_DEFAULTS[choice.kind].model_copy(update={"class_weights": settings.class_weights})
    head = HEADS[choice.kind](problem, own)
    return replace(head, facts=head.facts | {"chosen_because": choice.reason})


HEADS: dict[HeadKind, Callable[[Problem, Any], FittedHead]] = {
    "auto": _fit_auto,
    "lbfgs+ridge": fit_both,
    "lbfgs": fit_logistic,
    "ridge": fit_ridge,
    "adamw": _fit_adamw,
    "knn": fit_neighbours,
    "prototype": fit_prototype,
}
"""Kind -> function from a problem and the resolved `head` section of that kind to the fitted head."""

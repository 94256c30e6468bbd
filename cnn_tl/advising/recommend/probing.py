"""How good a head on the features of a backbone is on images that it has not seen: repeated cross-validation.

Shapes: N images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.seeds import seed_of
from cnn_tl.heads import HEADS, Problem, class_weights
from cnn_tl.heads.folds import stratified_folds
from cnn_tl.heads.problem import Features, require_finite
from cnn_tl.recipe.resolved import ResolvedHead

Scores = NDArray[np.float64]
Indices = NDArray[np.int64]

FOLDS, REPEATS = 5, 3


@dataclass(frozen=True)
class Probe:
    """Images that every backbone is judged on, in the same folds.

    Attributes:
        labels: int64 [N].
        folds: the fold of each image, one array [N] for each repetition; `FOLDS` for one that is never held out.
        groups: the group of each image, int64 [N]; None: each is alone.
    """

    labels: Indices
    folds: tuple[Indices, ...]
    groups: Indices | None
    classes: Sequence[str]
    seed: int

    @property
    def judged(self) -> NDArray[np.bool_]:
        """Which images are held out in every repetition, [N]."""
        found: NDArray[np.bool_] = np.all([fold_N < FOLDS for fold_N in self.folds], axis=0)
        return found

    def scores(self, features_ND: Features, head: ResolvedHead, check: Callable[[], None]) -> Scores:
        """Return for each judged image the share of repetitions in which a head without it is right.

        Args:
            check: called repeatedly; an exception in it ends the work.

        Raises:
            DivergedError: the features are not finite.
        """
        require_finite(features_ND)
        right_N = np.zeros(len(self.labels))
        for number, fold_N in enumerate(self.folds):
            for fold in range(FOLDS):
                held_N = fold_N == fold
                if held_N.any():
                    right_N[held_N] += self._right(features_ND, ~held_N, held_N, head, number, check)
        scores_n: Scores = (right_N / len(self.folds))[self.judged]
        return scores_n

    def _right(
        self,
        features_ND: Features,
        fitted_N: NDArray[np.bool_],
        held_N: NDArray[np.bool_],
        head: ResolvedHead,
        repetition: int,
        check: Callable[[], None],
    ) -> NDArray[np.bool_]:
        """Return which of the held-out images a head on the others gets right; one of a class without any is wrong."""
        present, labels = np.unique(self.labels[fitted_N], return_inverse=True)
        if len(present) < 2:
            return self.labels[held_N] == present[0]  # type: ignore[no-any-return]
        weights = class_weights(head.class_weights, self.labels[fitted_N], self.classes)[present]
        groups = None if self.groups is None else self.groups[fitted_N]
        problem = Problem(
            [features_ND[fitted_N]], labels, len(present), weights, seed_of(self.seed, "probe", repetition), check,
            groups=groups, hold_out=False,
        )  # fmt: skip
        fitted = HEADS[head.kind](problem, head)
        answers = present[fitted.logits(features_ND[held_N]).argmax(1)]
        return answers == self.labels[held_N]  # type: ignore[no-any-return]


def probe_of(
    labels_N: Indices, groups_N: Indices | None, classes: Sequence[str], seed: int, repeats: int = REPEATS
) -> Probe:
    """Return the probe of some images: stratified folds that keep groups together, another deal each repetition."""
    deals = [
        stratified_folds(labels_N, FOLDS, seed_of(seed, "recommend", "folds", number), groups_N)
        for number in range(repeats)
    ]
    return Probe(labels_N, tuple(deals), groups_N, tuple(classes), seed)

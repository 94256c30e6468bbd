"""Which head `--head auto` fits, and how long a fit takes; both follow from the size of the problem.

Logistic and ridge regression together are the default. Ridge regression alone is used in two cases.

- Few images of each class: cross-validation would choose the penalty, and with it the probabilities, by one or two
  held-out images per class. Ridge leaves out each image exactly. With 1 to 3 images per class of the dishes, cats and
  dogs (six draws each), accuracies were equal to 0.02, and log losses 0.7 to 6.0 with ridge, 1.4 to 20.2 with lbfgs.
- Many classes: lbfgs fits K x D weights over and over. For 1,000 classes of 2 images, 12 penalties alone took
  31 s of processor time; ridge took 9 s, and was better.

The sizes decide, not a clock, so the same recipe gives the same head everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cnn_tl.core.formatting import duration
from cnn_tl.heads.logistic import CROSS_VALIDATION_IMAGES, FOLDS
from cnn_tl.heads.ridge import PENALTIES

FEW = 5
"""The average number of images per class that is enough for logistic regression."""

MAX_SECONDS = 60.0
"""The expected time on one core, in seconds, that logistic regression may take."""

PASSES, LAST_PASSES = 650, 75
"""Evaluations of one fold's objective while lbfgs chooses its penalty with all folds, and of all images' objective
afterwards: 600 to 660, and 50 to 93, were counted for 40 to 300 classes."""

SINGLE, DOUBLE = 4e10, 2e10
"""Floating-point operations per second of matrix products on one core with AVX2, in float32 and float64."""

OVERHEAD = 1e-4
"""Seconds of an evaluation, whatever its size."""

FACTOR_SECONDS = 4e-7
"""Seconds for calibrating ridge's scores for one penalty, per image and class: about 15 passes of exponentials."""


@dataclass(frozen=True)
class Choice:
    """What `auto` fits, and why it is ridge regression alone ("" if it is not)."""

    kind: Literal["lbfgs+ridge", "ridge"]
    reason: str

    def __str__(self) -> str:
        """Return such as "ridge: few images of each class"."""
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


def choose(images: int, views: int, num_features: int, num_classes: int) -> Choice:
    """Return the better one of lbfgs+ridge and ridge for a number of training images, each with a number of views."""
    if images < FEW * num_classes:
        return Choice("ridge", "few images of each class")
    expected = lbfgs_seconds(images, views, num_features, num_classes)
    if expected > max(MAX_SECONDS, ridge_seconds(images, views, num_features, num_classes)):
        return Choice("ridge", f"lbfgs would take {duration(expected)}")
    return Choice("lbfgs+ridge", "")


def lbfgs_seconds(images: int, views: int, num_features: int, num_classes: int) -> float:
    """Return about how long `fit_logistic` takes on one core, including cross-validation."""
    sample = min(images, max(CROSS_VALIDATION_IMAGES, FOLDS * num_classes))
    folds = min(FOLDS, max(1, round(CROSS_VALIDATION_IMAGES * FOLDS / sample)))
    held, rows = sample * views, images * views
    fold = 4.0 * held * min(held, num_features) * num_classes / SINGLE + OVERHEAD
    whole = 4.0 * rows * min(rows, num_features) * num_classes / SINGLE + OVERHEAD
    return PASSES * folds / FOLDS * fold + LAST_PASSES * whole


def ridge_seconds(images: int, views: int, num_features: int, num_classes: int) -> float:
    """Return about how long `fit_ridge` takes on one core."""
    rows = images * views
    rank = min(rows, num_features)
    decomposition = (10.0 * rank**3 + 4.0 * rows * num_features * rank) / DOUBLE
    each = 4.0 * rows * rank * num_classes / DOUBLE + FACTOR_SECONDS * images * num_classes
    return decomposition + len(PENALTIES) * each

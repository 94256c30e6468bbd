"""The evidence of a head on a frozen backbone: what it says of images that it was not fitted to, and their distances.

The features are there already, so it costs no pass over the images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnn_tl.abstention.distance import fit_with_held_out
from cnn_tl.abstention.evidence import Evidence
from cnn_tl.data.groups import group_numbers
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.heads import FittedHead
from cnn_tl.training.modes.features import SplitFeatures
from cnn_tl.training.outcome import Logits


def evidence_of(
    head: FittedHead, train: SplitFeatures, val: SplitFeatures, val_logits: Logits, *, seed: int
) -> Evidence:
    """Return the evidence of a head's held-out training images; of the validation images, if it held out none."""
    labels_N, held_out = _labels(train.images), head.held_out
    distance, distances_n = fit_with_held_out(
        train[0],
        labels_N,
        head.num_classes,
        None if held_out is None else held_out.images,
        group_numbers(train.images),
    )
    if held_out is None:
        return Evidence.of("validation", val_logits, _labels(val.images), distance(val[0]), distance, seed=seed)
    return Evidence.of("training", held_out.logits, labels_N[held_out.images], distances_n, distance, seed=seed)


def _labels(images: tuple[ImageRecord, ...]) -> NDArray[np.int64]:
    return np.array([image.label for image in images], np.int64)

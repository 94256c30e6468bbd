"""The evidence of a trained model: what it says of images that it was not fitted to, and their distances.

The features are there already, or come with the last validation, so it costs no pass over the images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cnn_tl.abstention.distance_fit import fit_with_held_out
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


def evidence_of_loop(
    logits_NK: Logits, features_ND: NDArray[np.float32] | None, val: Sequence[ImageRecord], *, seed: int
) -> Evidence:
    """Return the evidence of a trained network, from its validation images alone.

    These are seen as new images will be: as they are, by the weights that are kept. The features of training images in
    the steps of an epoch are of augmented images and of weights that changed meanwhile. With 10 validation images for
    each class, distances from their means and covariance tell known from foreign images as well as those from all
    training images (by frozen features of six data sets; mean AUROC within 0.005).

    Args:
        features_ND: of the validation images; None: no distances. There are none either if a class has no validation
            image: all of its images would be far away.
    """
    labels_N, classes = _labels(val), logits_NK.shape[1]
    if features_ND is None or len(np.unique(labels_N)) < classes:
        return Evidence.of("validation", logits_NK, labels_N, seed=seed)
    distance, distances_N = fit_with_held_out(features_ND, labels_N, classes, None, group_numbers(val))
    return Evidence.of("validation", logits_NK, labels_N, distances_N, distance, seed=seed)


def _labels(images: Sequence[ImageRecord]) -> NDArray[np.int64]:
    return np.array([image.label for image in images], np.int64)

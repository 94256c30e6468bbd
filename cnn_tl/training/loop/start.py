"""The start of a training loop: the newest checkpoint, or the pretrained network with a fitted head.

With a random head the first steps distort the pretrained features (Kumar et al. 2022, "Fine-tuning can distort
pretrained features and underperform out-of-distribution", sec. 3).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from cnn_tl.core.errors import UsageError
from cnn_tl.data.groups import group_numbers
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.features.engine import DeviceBatch
from cnn_tl.heads import HEADS, Problem, class_weights
from cnn_tl.networks import backbone
from cnn_tl.recipe.defaults import HEAD_DEFAULTS
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.backbone_graph import graph_of_loop
from cnn_tl.training.checkpoints import checkpoint
from cnn_tl.training.checkpoints.checkpoint import Checkpoint
from cnn_tl.training.checkpoints.loop_checkpoint import report_missing_checkpoint
from cnn_tl.training.checkpoints.train_state import Progress
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.loop.validation import Read, outputs
from cnn_tl.training.outcome import ImageReads
from cnn_tl.training.sources.device_views import DeviceViews, open_views

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Start:
    """The state from which training starts.

    Attributes:
        model: the network's model, on its device, with the weights to start from.
        progress: see `Progress`.
        checkpoint: the one to resume from; None: training starts at the first step.
        head_is_fitted: whether the head was fitted in this start.
        images: how many images were decoded and how many were cached.
        device_views: views of the training images that the device computes; None: threads do.
    """

    model: nn.Module
    progress: Progress
    checkpoint: Checkpoint | None
    head_is_fitted: bool
    images: ImageReads | None
    device_views: DeviceViews | None


def find_start(run: Run[LoopRecipe], dataset: Dataset[LoopRecipe], network: LazyNetwork) -> Start:
    """Decode all images once, then load the newest checkpoint; if there is none, fit the head.

    Raises (in all processes of the run):
        ArtefactError: there are checkpoints, and all are damaged; or they do not fit the recipe.
        And the errors of `Dataset.check_images`, `open_sources` and `set_fitted_head`.
    """
    model = backbone.place(network.model, network.device)
    if run.recipe.model.bn == "sync":
        model = network.build().model = backbone.synchronised(model, network.device)
    views = open_views(dataset, network.info.preprocessing, network.device)
    loads_all = views is not None and not isinstance(run.recipe.features.views, int)  # else activations may be cached
    with dataset.images.holding_decoded(loads_all and views is not None and views.expect_room_on_device()):
        images = dataset.check_images().reads
        if views is not None and loads_all:
            with run.world.together():
                views.open()
    found = run.world.first(lambda: checkpoint.load_newest(run.folder.checkpoints, run.observer.warn))
    if found is not None:
        with checkpoint.reporting_mismatch(run.folder.checkpoints):
            model.load_state_dict(found.tensors["model"])
        return Start(model, Progress.read(found.state), found, False, images, views)
    report_missing_checkpoint(run)
    fitted = run.recipe.fits_head and set_fitted_head(dataset, network, views)
    lr = run.recipe.train.lr
    return Start(model, Progress(lr=0.0 if lr == "auto" else lr), None, fitted, images, views)


AT_MOST = 20_000
"""Approximate maximum number of images for fitting the head: more would hardly change it, and need memory."""


def set_fitted_head(
    dataset: Dataset[LoopRecipe], network: LazyNetwork, device_views: DeviceViews | None = None
) -> bool:
    """Fit the network's classifier by logistic or ridge regression on the features of the training images.

    A model whose classifier is more than one linear layer keeps its random head, with a note.

    Returns:
        Whether the head was fitted.

    Raises (in all processes of the run):
        DivergedError: the features are not finite.
        And the errors of `validation.outputs`.
    """
    run, model = dataset.run, network.model.eval()
    try:
        backbone.require_linear_classifier(network.build())
    except UsageError:
        run.observer.note(f"the head starts at random: {network.info.name} does not end in one linear layer")
        return False
    images, name = _some_of_each_class(dataset.manifest.of("train")), "features for the head"
    graph = graph_of_loop(dataset, network)
    engine = None if graph is None else network.onnx_engine(graph)
    with backbone.without_classifier(model):
        features_ND = outputs(dataset, network, model, images, name, _reader(dataset, device_views), engine)
    network.forget_engines()
    fitted = run.world.first(lambda: _fit(dataset, network, images, features_ND.numpy()))
    weight, bias = (torch.from_numpy(np.ascontiguousarray(fitted[name])) for name in ("weight", "bias"))
    backbone.set_linear_classifier(model, weight, bias)
    return True


def _reader(dataset: Dataset[LoopRecipe], device_views: DeviceViews | None) -> Read:
    """Return what reads training images without augmentation."""
    if device_views is None or not device_views.has_unvaried:
        return lambda groups: dataset.read(groups, dataset.images.unvaried)
    views = device_views

    def read(groups: Sequence[Sequence[ImageRecord]]) -> Iterator[DeviceBatch[ImageRecord]]:
        for group, pixels_NHW3 in zip(groups, views.unvaried(groups), strict=True):
            yield DeviceBatch(group, pixels_NHW3)

    return read


def _some_of_each_class(images: Sequence[ImageRecord]) -> list[ImageRecord]:
    stride = -(-len(images) // AT_MOST)
    of_class: dict[int, list[ImageRecord]] = {}
    for image in images:
        of_class.setdefault(image.label, []).append(image)
    return [image for own in of_class.values() for image in own[::stride]]


def _fit(
    dataset: Dataset[LoopRecipe], network: LazyNetwork, images: Sequence[ImageRecord], features_ND: NDArray[np.float32]
) -> Tensors:
    run, classes = dataset.run, dataset.manifest.classes
    labels = np.array([image.label for image in images], dtype=np.int64)
    weights = class_weights(run.recipe.train.class_weights, labels, classes, key="train.class_weights")
    device = str(network.device)
    seed, check, groups = run.recipe.seed, run.raise_if_stopped, group_numbers(images)
    problem = Problem([features_ND], labels, len(classes), weights, seed, check, device, groups, hold_out=False)
    return HEADS["auto"](problem, HEAD_DEFAULTS["auto"]).tensors

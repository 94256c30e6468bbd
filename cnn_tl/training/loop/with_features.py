"""Engines that give the features of an image beside its logits, in the same pass: [N, K + D].

The logits are those that the network gives without them, to the last bit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cnn_tl.core.device import inference_precision
from cnn_tl.features.engine import Engine
from cnn_tl.features.stream import Runs
from cnn_tl.networks.backbone import linear_classifier
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.loop.validation import onnx_engine


def engine_with_features(dataset: Dataset[LoopRecipe], network: LazyNetwork, model: nn.Module) -> Runs | None:
    """Return the engine for these weights; None if the model does more after its features than one linear layer.

    Args:
        model: the network's model, whose weights must not change while the engine is used.
    """
    if not network.info.num_features:
        return None
    device, spec = network.device, network.info.preprocessing
    engine = onnx_engine(dataset, network, model, beside=lambda features_ND: features_ND)
    if engine is not None:
        return engine
    precision = inference_precision(device, dataset.run.recipe.run.precision)
    return Engine(_FeaturesToo(model).eval(), spec, device, precision)


class _FeaturesToo(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._classifier = [linear_classifier(model)]  # in a list, as it is a part of the model already

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the logits and the input of the classifier, float32 [N, K + D]."""
        seen: list[Tensor] = []
        hook = self._classifier[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits_NK = self.model(x_NCHW)
        finally:
            hook.remove()
        return torch.cat([logits_NK.flatten(1).float(), seen[0].flatten(1).float()], 1)

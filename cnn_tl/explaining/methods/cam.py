"""Grad-CAM and its relatives, by torchcam: the maps of a layer, weighted by what they mean for a class."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchcam.methods import GradCAM, LayerCAM, XGradCAM

from cnn_tl.explaining.layers import MapLayer
from cnn_tl.explaining.model import Subject

METHODS: dict[str, Any] = {
    "gradcam": GradCAM,  # Selvaraju et al. 2017, sec. 3: one weight a channel, its mean gradient
    "xgradcam": XGradCAM,  # Fu et al. 2020, sec. 3: gradients averaged with the activations as weights
    "layercam": LayerCAM,  # Jiang et al. 2021, sec. III: a weight for each place, so early layers can be looked at too
}


def heat_map(method: str, subject: Subject, layer: MapLayer, x_1CHW: Tensor, index: int) -> Tensor:
    """Return what speaks for class `index` where, [h, w] of the layer's map, not below zero.

    It is a map of zeros where the logit of the class does not depend on the layer.
    """
    options = {"input_shape": tuple(x_1CHW.shape[1:]), "reshape_transform": layer.channels_first}
    with METHODS[method](subject.model, target_layer=layer.name, **options) as extractor:
        logits_1K = subject.model(x_1CHW.detach().requires_grad_(True))
        [map_1hw] = extractor(class_idx=index, scores=logits_1K, normalized=False)
    found: Tensor = map_1hw[0].detach()
    return found

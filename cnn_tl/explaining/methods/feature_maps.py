"""The strongest channels of a layer for an image: their maps, and where their peaks are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cnn_tl.core.errors import UsageError
from cnn_tl.explaining.model import ExplainedModel
from cnn_tl.explaining.target_layers import MapLayer, activations

CHANNELS = 9
"""How many channels are shown for an image."""


@dataclass(frozen=True)
class Strongest:
    """The channels of a layer with the highest peaks in one image, highest first.

    Attributes:
        channels: their numbers. places: where the peaks are on the map, row * width + column.
        peaks: the activations there.
        maps: the maps, [C, h, w].
    """

    channels: list[int]
    places: list[int]
    peaks: list[float]
    maps: Tensor


@torch.no_grad()
def strongest(model: ExplainedModel, layer: MapLayer, x_1CHW: Tensor, channels: list[int] | None = None) -> Strongest:
    """Return the channels with the highest peaks, or those that are named, in their order.

    Between equal peaks, as ReLU6 makes them, the higher mean comes first.
    """
    maps_Chw = activations(model.network, layer, x_1CHW)[0].float()
    peaks_C, places_C = maps_Chw.flatten(1).max(dim=1)
    if channels:
        chosen = torch.tensor(channels, device=maps_Chw.device)
    else:
        chosen = ranking(peaks_C, maps_Chw.mean(dim=(1, 2)))[:CHANNELS]
    return Strongest(chosen.tolist(), places_C[chosen].tolist(), peaks_C[chosen].tolist(), maps_Chw[chosen])


def ranking(peak: Tensor, mean: Tensor) -> Tensor:
    """Return the order of the last dimension by descending peak, then by descending mean."""
    by_mean = torch.argsort(mean, dim=-1, descending=True, stable=True)
    by_peak = torch.argsort(peak.gather(-1, by_mean), dim=-1, descending=True, stable=True)
    return by_mean.gather(-1, by_peak)


def check_channels(layer: MapLayer, channels: list[int]) -> None:
    """Check that the layer has these channels.

    Raises:
        UsageError: it does not.
    """
    for channel in channels:
        if not 0 <= channel < layer.channels:
            raise UsageError(f"layer {layer.name} has no channel {channel}; its channels are 0 to {layer.channels - 1}")

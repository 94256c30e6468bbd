"""What a layer makes of an image: its strongest channels, as maps and as places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cnn_tl.core.errors import UsageError
from cnn_tl.explaining.layers import MapLayer, activations
from cnn_tl.explaining.model import Subject

CHANNELS = 9
"""How many channels are shown of an image."""


@dataclass(frozen=True)
class Strongest:
    """The channels of a layer with the highest peaks in one image, highest first.

    Attributes:
        channels: their numbers. places: where the peaks are, row * width + column of the map.
        peaks: how high they are.
        maps: the channels themselves, [C, h, w].
    """

    channels: list[int]
    places: list[int]
    peaks: list[float]
    maps: Tensor


@torch.no_grad()
def strongest(subject: Subject, layer: MapLayer, x_1CHW: Tensor, channels: list[int] | None = None) -> Strongest:
    """Return the channels with the highest single activation; or those that are named, in their order.

    Of channels that reach the same height, as under ReLU6, the one with the higher mean comes first.
    """
    maps_Chw = activations(subject.model, layer, x_1CHW)[0].float()
    peaks_C, places_C = maps_Chw.flatten(1).max(dim=1)
    if channels:
        chosen = torch.tensor(channels, device=maps_Chw.device)
    else:
        chosen = ranking(peaks_C, maps_Chw.mean(dim=(1, 2)))[:CHANNELS]
    return Strongest(chosen.tolist(), places_C[chosen].tolist(), peaks_C[chosen].tolist(), maps_Chw[chosen])


def ranking(peak: Tensor, mean: Tensor) -> Tensor:
    """Return the order of the last dimension by falling peaks, and of equal peaks by falling means."""
    by_mean = torch.argsort(mean, dim=-1, descending=True, stable=True)
    by_peak = torch.argsort(peak.gather(-1, by_mean), dim=-1, descending=True, stable=True)
    return by_mean.gather(-1, by_peak)


def check_channels(layer: MapLayer, channels: list[int]) -> None:
    """Make sure that the layer has these channels.

    Raises:
        UsageError: it has not.
    """
    for channel in channels:
        if not 0 <= channel < layer.channels:
            raise UsageError(f"layer {layer.name} has no channel {channel}; they go from 0 to {layer.channels - 1}")

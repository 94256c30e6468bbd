"""The nine images that activate a channel most, found in one pass (Zeiler and Fergus 2014, figure 2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from cnn_tl.explaining.methods.feature_maps import ranking
from cnn_tl.explaining.model import ExplainedModel
from cnn_tl.explaining.target_layers import MapLayer, activations

BEST = 9
CHANNELS = 8
"""How many channels are shown by default."""


@dataclass
class TopPatches:
    """The peaks of each channel in its nine strongest images; nothing else is kept in memory.

    Attributes:
        files: number -> image, for those that any channel keeps.
        value, mean: the peaks [C, B], highest first, and the means of their maps, which break ties.
        image, place: the number of each image, and where on its map the peak is.
    """

    files: dict[int, Path] = field(default_factory=dict)
    value: Tensor = field(default_factory=lambda: torch.empty(0))
    mean: Tensor = field(default_factory=lambda: torch.empty(0))
    image: Tensor = field(default_factory=lambda: torch.empty(0))
    place: Tensor = field(default_factory=lambda: torch.empty(0))

    def add(self, numbered: Iterable[tuple[int, Path]], maps_NChw: Tensor) -> None:
        """Consider the maps [N, C, h, w] of more images; between equal peaks the earlier image stays."""
        value_NC, place_NC = maps_NChw.flatten(2).max(dim=2)
        numbered = list(numbered)
        image_N = torch.tensor([number for number, _ in numbered])
        mean_NC = maps_NChw.mean(dim=(2, 3))
        image_CN = image_N.expand(maps_NChw.shape[1], -1)
        new: tuple[Tensor, ...] = value_NC.T.cpu(), mean_NC.T.cpu(), place_NC.T.cpu(), image_CN
        if self.files:
            kept_so_far = self.value, self.mean, self.place, self.image
            new = tuple(torch.cat(pair, dim=1) for pair in zip(kept_so_far, new, strict=True))
        best = ranking(new[0], new[1])[:, :BEST]
        self.value, self.mean, self.place, self.image = (tensor.gather(1, best) for tensor in new)
        kept = set(self.image.flatten().tolist())
        self.files = {number: path for number, path in (self.files | dict(numbered)).items() if number in kept}

    def strongest_channels(self) -> list[int]:
        """Return the channels with the highest peaks, highest first."""
        return ranking(self.value[:, 0], self.mean[:, 0])[:CHANNELS].tolist()


@torch.no_grad()
def maps_of(model: ExplainedModel, layer: MapLayer, x_NCHW: Tensor) -> Tensor:
    """Return the layer's maps [N, C, h, w] of a batch."""
    return activations(model.network, layer, x_NCHW).float()

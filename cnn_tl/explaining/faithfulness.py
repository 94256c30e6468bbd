"""The faithfulness of a heat map: deletion and insertion (Petsiuk et al. 2018, RISE, sec. 4.3).

Deletion removes pixels in the order of the map, hottest first: if the map is right, the evidence for the class is soon
gone, and the area under the curve is small. Insertion puts them into a blurred image in that order, and the area should
be large. Areas differ between images, so each is compared with that of random maps of the same image.

RISE measures the probability of one class in a thousand. A model with few classes gives one of them a probability near
1 until hardly anything is left, even for a grey image, so here evidence is measured in log-odds, scaled to 0 for the
grey image and 1 for the whole one.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from cnn_tl.core.seeds import seed_of
from cnn_tl.explaining.methods.heat_maps import LEAST_EVIDENCE
from cnn_tl.explaining.model import ExplainedModel, log_odds
from cnn_tl.explaining.report import Areas
from cnn_tl.plots.explanation import Curves

STEPS = 20
RANDOM_MAPS = 4
RANDOM_GRID = 7
"""Random maps are as coarse as those of a last layer; removing scattered single pixels is a different attack."""

BLUR_KERNEL, BLUR_SIGMA = 11, 5.0
"""In pixels, of the image that insertion starts from, as in the paper."""


class Faithfulness(Curves):
    """The curves of one heat map, and the areas under them."""

    @property
    def areas(self) -> Areas:
        """The areas under the curves."""

        def area(curve: NDArray[np.float64]) -> float:
            return round(float(np.trapezoid(curve, self.share)), 4)

        return Areas(
            deletion=area(self.deletion),
            random_deletion=area(self.random_deletion),
            insertion=area(self.insertion),
            random_insertion=area(self.random_insertion),
        )


def measure(model: ExplainedModel, x_1CHW: Tensor, map_hw: Tensor, index: int) -> Faithfulness | None:
    """Measure deletion and insertion in the order of a heat map [h, w] of class `index`.

    Returns:
        None where a grey image has as much evidence for the class as this one.
    """
    height, width = x_1CHW.shape[-2:]
    maps = [map_hw, *_random_maps(x_1CHW)]
    orders = [_order(enlarge(one, height, width)) for one in maps]
    blank, blurred = torch.zeros_like(x_1CHW), gaussian_blur(x_1CHW, [BLUR_KERNEL] * 2, [BLUR_SIGMA] * 2)
    whole, nothing = log_odds(model.logits(torch.cat([x_1CHW, blank])), index).tolist()
    if whole - nothing < LEAST_EVIDENCE:
        return None
    deletion = np.stack([_curve(model, x_1CHW, blank, order, index) for order in orders])
    insertion = np.stack([_curve(model, blurred, x_1CHW, order, index) for order in orders])
    deletion, insertion = (deletion - nothing) / (whole - nothing), (insertion - nothing) / (whole - nothing)
    share = np.linspace(0, 1, STEPS + 1)
    return Faithfulness(share, deletion[0], insertion[0], deletion[1:].mean(0), insertion[1:].mean(0))


def enlarge(map_hw: Tensor, height: int, width: int) -> Tensor:
    """Return the map at the size of the image, [H, W], bilinear."""
    return F.interpolate(map_hw[None, None].float(), (height, width), mode="bilinear", align_corners=False)[0, 0]


def _curve(model: ExplainedModel, start: Tensor, goal: Tensor, rank_HW: Tensor, index: int) -> NDArray[np.float64]:
    """Return the log-odds of the class while `start` becomes `goal`, pixel by pixel, [S + 1]."""
    pixels = rank_HW.numel()
    steps = [torch.where(rank_HW < round(pixels * step / STEPS), goal, start) for step in range(STEPS + 1)]
    evidence = log_odds(model.logits(torch.cat(steps)).double(), index)
    return np.asarray(evidence.cpu().numpy(), dtype=np.float64)


def _order(map_HW: Tensor) -> Tensor:
    """Return the rank of each pixel, [H, W]: 0 for the hottest; ties by reading order."""
    order = torch.argsort(map_HW.flatten(), descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return rank.view(map_HW.shape)


def _random_maps(x_1CHW: Tensor) -> list[Tensor]:
    """Return random maps that depend on the pixels of the image only, so that they are the same each time."""
    digest = hashlib.sha256(np.ascontiguousarray(x_1CHW.cpu().numpy()).tobytes()).hexdigest()
    maps = []
    for number in range(RANDOM_MAPS):
        generator = torch.Generator().manual_seed(seed_of("random map", number, digest))
        maps.append(torch.rand(RANDOM_GRID, RANDOM_GRID, generator=generator).to(x_1CHW.device))
    return maps

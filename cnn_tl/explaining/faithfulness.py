"""How far a heat map can be trusted: deletion and insertion (Petsiuk et al. 2018, RISE, sec. 4.3).

Pixels are taken away in the order of the map, the hottest first: if the map is right, what speaks for the class is gone
soon, and the area under the curve is small. Or they are put into a blurred image in that order: then it should be
large. An area alone says little, as images differ; so beside it stands that of random maps of the same image.

RISE takes the probability of one class in a thousand. A model of a few classes gives one of them a probability near 1
until hardly anything is left, even for a grey image. So evidence is measured in log-odds, from 0, what the grey
image says, to 1, what the whole one says.
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
from cnn_tl.explaining.methods.covering import LEAST_EVIDENCE
from cnn_tl.explaining.model import Subject, log_odds
from cnn_tl.plots.explanation import Curves

STEPS = 20
RANDOM_MAPS = 4
RANDOM_GRID = 7
"""Random maps are as coarse as those of a last layer: single pixels here and there would be another attack."""

BLUR_KERNEL, BLUR_SIGMA = 11, 5.0
"""Of the image that insertion starts from, in pixels; as the authors have it."""


AREAS = ("deletion", "random_deletion", "insertion", "random_insertion")


class Faithfulness(Curves):
    """The curves of one heat map, and the areas under them."""

    def to_dict(self) -> dict[str, float]:
        """Return the four areas, about 0..1: deletion is better small, insertion large."""
        return {name: round(float(np.trapezoid(getattr(self, name), self.share)), 4) for name in AREAS}


def measure(subject: Subject, x_1CHW: Tensor, map_hw: Tensor, index: int) -> Faithfulness | None:
    """Take the image apart and put it together in the order of a heat map [h, w] of class `index`.

    None where a grey image speaks for the class as loudly as this one.
    """
    height, width = x_1CHW.shape[-2:]
    maps = [map_hw, *_random_maps(x_1CHW)]
    orders = [_order(enlarge(one, height, width)) for one in maps]
    blank, blurred = torch.zeros_like(x_1CHW), gaussian_blur(x_1CHW, [BLUR_KERNEL] * 2, [BLUR_SIGMA] * 2)
    whole, nothing = log_odds(subject.logits(torch.cat([x_1CHW, blank])), index).tolist()
    if whole - nothing < LEAST_EVIDENCE:
        return None
    deletion = np.stack([_curve(subject, x_1CHW, blank, order, index) for order in orders])
    insertion = np.stack([_curve(subject, blurred, x_1CHW, order, index) for order in orders])
    deletion, insertion = (deletion - nothing) / (whole - nothing), (insertion - nothing) / (whole - nothing)
    share = np.linspace(0, 1, STEPS + 1)
    return Faithfulness(share, deletion[0], insertion[0], deletion[1:].mean(0), insertion[1:].mean(0))


def enlarge(map_hw: Tensor, height: int, width: int) -> Tensor:
    """Return the map at the size of the image, [H, W], bilinear."""
    return F.interpolate(map_hw[None, None].float(), (height, width), mode="bilinear", align_corners=False)[0, 0]


def _curve(subject: Subject, start: Tensor, goal: Tensor, rank_HW: Tensor, index: int) -> NDArray[np.float64]:
    """Return the log-odds of the class while `start` becomes `goal`, pixel after pixel, [S + 1]."""
    pixels = rank_HW.numel()
    steps = [torch.where(rank_HW < round(pixels * step / STEPS), goal, start) for step in range(STEPS + 1)]
    evidence = log_odds(subject.logits(torch.cat(steps)).double(), index)
    return np.asarray(evidence.cpu().numpy(), dtype=np.float64)


def _order(map_HW: Tensor) -> Tensor:
    """Return the rank of each pixel, [H, W]: 0 for the hottest; of equals the upper left one comes first."""
    order = torch.argsort(map_HW.flatten(), descending=True, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    return rank.view(map_HW.shape)


def _random_maps(x_1CHW: Tensor) -> list[Tensor]:
    """Return the random maps of an image: a function of its pixels, so the same each time."""
    digest = hashlib.sha256(np.ascontiguousarray(x_1CHW.cpu().numpy()).tobytes()).hexdigest()
    maps = []
    for number in range(RANDOM_MAPS):
        generator = torch.Generator().manual_seed(seed_of("random map", number, digest))
        maps.append(torch.rand(RANDOM_GRID, RANDOM_GRID, generator=generator).to(x_1CHW.device))
    return maps

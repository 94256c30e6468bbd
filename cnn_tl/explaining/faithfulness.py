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
from numpy.typing import NDArray

from cnn_tl.core.seeds import seed_of
from cnn_tl.explaining.answering import AnsweringModel, Inputs
from cnn_tl.explaining.methods.heat_maps import LEAST_EVIDENCE, log_odds
from cnn_tl.explaining.report import Areas
from cnn_tl.plots.explanation import Curves

Map = NDArray[np.floating]
Curve = NDArray[np.float64]

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


def measure(model: AnsweringModel, x_1CHW: Inputs, map_hw: Map, index: int) -> Faithfulness | None:
    """Measure deletion and insertion in the order of a heat map [h, w] of class `index`.

    Returns:
        None where a grey image has as much evidence for the class as this one.
    """
    height, width = x_1CHW.shape[-2:]
    maps = [map_hw, *_random_maps(x_1CHW)]
    orders = [_order(enlarge(one, height, width)) for one in maps]
    blank, blurred = np.zeros_like(x_1CHW), _blurred(x_1CHW)
    whole, nothing = log_odds(model.logits(np.concatenate([x_1CHW, blank])), index).tolist()
    if whole - nothing < LEAST_EVIDENCE:
        return None
    deletion = np.stack([_curve(model, x_1CHW, blank, order, index) for order in orders])
    insertion = np.stack([_curve(model, blurred, x_1CHW, order, index) for order in orders])
    deletion, insertion = (deletion - nothing) / (whole - nothing), (insertion - nothing) / (whole - nothing)
    share = np.linspace(0, 1, STEPS + 1)
    return Faithfulness(share, deletion[0], insertion[0], deletion[1:].mean(0), insertion[1:].mean(0))


def enlarge(map_hw: Map, height: int, width: int) -> NDArray[np.float32]:
    """Return the map at the size of the image, [H, W], bilinear; pixels are squares, whose centres are compared."""
    rows_Hh, columns_Ww = _bilinear(map_hw.shape[0], height), _bilinear(map_hw.shape[1], width)
    return (rows_Hh @ map_hw.astype(np.float64) @ columns_Ww.T).astype(np.float32)


def _bilinear(size: int, target: int) -> NDArray[np.float64]:
    """Return the weights [target, size] of linear interpolation; beyond the outer centres the ends are repeated."""
    places = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(size)))  # type: ignore[no-any-return]


def _blurred(x_1CHW: Inputs) -> Inputs:
    """Return the image after a Gaussian filter; at the borders it is mirrored."""
    offsets = np.arange(BLUR_KERNEL) - BLUR_KERNEL // 2
    kernel = np.exp(-((offsets / BLUR_SIGMA) ** 2) / 2)
    blurred = x_1CHW.astype(np.float64)
    for axis in (2, 3):
        margins = [(BLUR_KERNEL // 2,) * 2 if one == axis else (0, 0) for one in range(4)]
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(blurred, margins, "reflect"), BLUR_KERNEL, axis)
        blurred = windows @ (kernel / kernel.sum())
    return blurred.astype(np.float32)


def _curve(model: AnsweringModel, start: Inputs, goal: Inputs, rank_HW: NDArray[np.intp], index: int) -> Curve:
    """Return the log-odds of the class while `start` becomes `goal`, pixel by pixel, [S + 1]."""
    steps = [np.where(rank_HW < round(rank_HW.size * step / STEPS), goal, start) for step in range(STEPS + 1)]
    return log_odds(model.logits(np.concatenate(steps)), index)


def _order(map_HW: Map) -> NDArray[np.intp]:
    """Return the rank of each pixel, [H, W]: 0 for the hottest; ties by reading order."""
    order = np.argsort(-map_HW.ravel(), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rank.reshape(map_HW.shape)


def _random_maps(x_1CHW: Inputs) -> list[Map]:
    """Return random maps that depend on the pixels of the image only, so that they are the same each time."""
    digest = hashlib.sha256(np.ascontiguousarray(x_1CHW).tobytes()).hexdigest()
    chances = (np.random.default_rng(seed_of("random map", number, digest)) for number in range(RANDOM_MAPS))
    return [chance.random((RANDOM_GRID, RANDOM_GRID)) for chance in chances]

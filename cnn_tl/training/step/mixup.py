"""Mixup and cutmix: combine pairs of images of a step, and their targets in the same proportion."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from cnn_tl.networks.backbone import to_device
from cnn_tl.recipe.resolved import ResolvedAugment


def mixed(x: Tensor, targets_NK: Tensor, settings: ResolvedAugment, seed: int) -> tuple[Tensor, Tensor]:
    """Return the batch with each image mixed with a random partner, which may be itself, and the mixed targets.

    mixup blends the whole images (Zhang et al. 2018, sec. 2); cutmix puts a box of the partner in its place (Yun et
    al. 2019, sec. 3.1). With both switched on, each batch gets one of them with equal probability. One share and one
    box are drawn for the whole batch, from `seed`, the same on every device; the arguments are not modified.

    Args:
        x: normalised images [N, C, H, W].
        targets_NK: probabilities of the classes, smoothed or not, on the same device.
        settings: `mixup` and `cutmix`, the alpha of the Beta(alpha, alpha) that gives the share; 0: off.
    """
    count = len(x)
    if count < 2 or not (settings.mixup or settings.cutmix):
        return x, targets_NK
    draw = np.random.default_rng(seed)
    cut = settings.cutmix > 0 and not (settings.mixup > 0 and draw.random() < 0.5)
    alpha = settings.cutmix if cut else settings.mixup
    share = float(draw.beta(alpha, alpha))
    partners = to_device(draw.permutation(count), x.device)
    if cut:
        x, share = _cutmix(x, partners, share, draw)
    else:
        x = x.lerp(x[partners], 1 - share)
    return x, targets_NK.lerp(targets_NK[partners], 1 - share)


def _cutmix(x_NCHW: Tensor, partners: Tensor, share: float, draw: np.random.Generator) -> tuple[Tensor, float]:
    """Return the images with a box of their partners, and the share of pixels that are still their own.

    The box has the image's proportions and a random centre, so it may be clipped at the border: the returned share
    counts the actual pixels.
    """
    assert x_NCHW.ndim == 4, "cutmix needs images; the recipe refuses it where activations are kept"
    height, width = x_NCHW.shape[2:]
    side = math.sqrt(1 - share)
    top, bottom = _span(height, side, draw)
    left, right = _span(width, side, draw)
    x_NCHW = x_NCHW.clone()
    x_NCHW[:, :, top:bottom, left:right] = x_NCHW[partners, :, top:bottom, left:right]
    return x_NCHW, 1 - (bottom - top) * (right - left) / (height * width)


def _span(size: int, share: float, draw: np.random.Generator) -> tuple[int, int]:
    """Return start and end of `share` of `size` pixels around a random centre, clipped."""
    middle, length = int(draw.integers(size)), int(size * share)
    start = middle - length // 2
    return max(0, start), min(size, start + length)

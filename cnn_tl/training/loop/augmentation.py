"""The last steps of augmentation, colour jitter and erasing, on the device in batches.

The pixels are exactly those that Pillow computes image by image in the workers, on any device: all operations here are
on integers, or on floats in operations that IEEE 754 rounds in only one way. So a run may switch from one to the other
at any time without changing its weights. A build of Pillow for another processor may round differently, which
`agrees` checks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views.augment import Finish, finish
from cnn_tl.data.views.transforms import mean_colour


def finished(pixels_NHW3: Tensor, finishes: Sequence[Finish], colour: tuple[int, int, int]) -> Tensor:
    """Return uint8 pixels [N, H, W, 3] after colour jitter and erasing.

    Args:
        pixels_NHW3: views before these steps, uint8.
        finishes: the parameters of these steps, one for each image.
        colour: fills the erased boxes.
    """
    device = pixels_NHW3.device
    if jitters := [finish.jitter for finish in finishes if finish.jitter is not None]:
        assert len(jitters) == len(finishes), "all views of a run are jittered, or none is"
        pixels_NHW3 = _jittered(pixels_NHW3, torch.tensor(jitters, device=device))
    if any(finish.hole for finish in finishes):
        mask_NHW1 = _holes(finishes, pixels_NHW3)
        pixels_NHW3 = torch.where(mask_NHW1, torch.tensor(colour, dtype=torch.uint8, device=device), pixels_NHW3)
    return pixels_NHW3


def agrees(device: torch.device, spec: Preprocessing) -> bool:
    """Return whether the device computes exactly the pixels of Pillow on this machine, tested on noise."""
    draw = np.random.default_rng(0)
    views = draw.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)
    lights = draw.uniform(0.5, 1.5, (16, 3))
    finishes = [Finish((b, c, s), (number, 2, 40, 50)) for number, (b, c, s) in enumerate(lights.tolist())]
    one_by_one = [finish(Image.fromarray(view), last, spec) for view, last in zip(views, finishes, strict=True)]
    in_a_batch = finished(torch.from_numpy(views).to(device), finishes, mean_colour(spec))
    return torch.equal(in_a_batch.cpu(), torch.from_numpy(np.stack([np.asarray(image) for image in one_by_one])))


def _jittered(pixels_NHW3: Tensor, factors_N3: Tensor) -> Tensor:
    """Change brightness, contrast and saturation as `PIL.ImageEnhance` does: blend with an image that has none."""
    brightness, contrast, saturation = factors_N3.float()[:, :, None, None, None].unbind(1)
    x = _blended(torch.zeros_like(pixels_NHW3, dtype=torch.float32), pixels_NHW3.float(), brightness)
    grey_N111 = _grey(x).long().sum((1, 2, 3), keepdim=True)
    count = pixels_NHW3.shape[1] * pixels_NHW3.shape[2]
    mean_N111 = (2 * grey_N111 + count) // (2 * count)  # rounded to the nearest integer
    x = _blended(mean_N111.float(), x, contrast)
    return _blended(_grey(x), x, saturation).to(torch.uint8)


def _blended(less: Tensor, more: Tensor, factor: Tensor) -> Tensor:
    """Interpolate, or extrapolate, from `less` to `more` by the factor and clip to a byte, as Pillow's Blend.c."""
    return (less + factor * (more - less)).clamp_(0, 255).floor_()


def _grey(x_NHW3: Tensor) -> Tensor:
    """Return the luma [N, H, W, 1] of whole numbers from 0 to 255, by ITU-R 601-2 in 16 bits, as Pillow's Convert.c."""
    red, green, blue = x_NHW3.int()[..., None].unbind(3)
    luma_NHW1: Tensor = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return luma_NHW1.float()


def _holes(finishes: Sequence[Finish], pixels_NHW3: Tensor) -> Tensor:
    """Return the mask of the erased boxes, bool [N, H, W, 1]."""
    (_, height, width, _), device = pixels_NHW3.shape, pixels_NHW3.device
    boxes = torch.tensor([finish.hole or (0, 0, 0, 0) for finish in finishes], device=device)
    left, top, right, bottom = boxes[:, :, None, None, None].unbind(1)
    rows, columns = torch.arange(height, device=device)[:, None, None], torch.arange(width, device=device)[:, None]
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)

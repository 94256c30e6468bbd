"""Images as a batch of sources for views on a device, and what Pillow makes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views.augment import View
from cnn_tl.data.views.transforms import FILTERS
from cnn_tl.training.views.source_batch import SourceBatch


def sources_of(images: Sequence[Image.Image], device: str = "cpu", gap: int = 0) -> SourceBatch:
    """Return images as sources one behind the other, the first and each further one after `gap` other pixels."""
    noise = np.random.default_rng(1).integers(0, 256, (gap, 3), dtype=np.uint8)
    pieces, starts, end = [], [], 0
    for image in images:
        pieces += [noise, np.asarray(image).reshape(-1, 3)]
        starts.append(end + gap)
        end += gap + image.width * image.height
    sizes = torch.tensor([image.size for image in images], device=device)
    pixels = torch.from_numpy(np.concatenate(pieces)).to(device)
    return SourceBatch(pixels, torch.tensor(starts, device=device), sizes[:, 1].clone(), sizes[:, 0].clone())


def noise_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return random pixels, the hardest to resize: wherever the filter overshoots, they are clipped."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def smooth_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return a few colours that run into each other, as large areas of photographs do."""
    return noise_image(7, 5, seed).resize((width, height), Image.Resampling.BICUBIC)


def crop_by_pillow(image: Image.Image, view: View, spec: Preprocessing) -> Image.Image:
    """Return the crop of a view, resized along x and then along y, as Pillow before 13 always did in one call.

    From version 13 on it begins with y if the image is high; where a filter overshoots, single pixels then differ.
    """
    left, top, right, bottom = view.box
    chosen = FILTERS[spec.interpolation]
    if spec.interpolation == "nearest":
        image = image.resize((spec.width, spec.height), chosen, box=view.box)
    else:
        image = image.resize((spec.width, image.height), chosen, box=(left, 0, right, image.height))
        image = image.resize((spec.width, spec.height), chosen, box=(0, top, spec.width, bottom))
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if view.flipped else image


def stacked(images: Sequence[Image.Image]) -> Tensor:
    """Return uint8 pixels [N, H, W, 3] of images of one size."""
    return torch.from_numpy(np.stack([np.asarray(image) for image in images]))

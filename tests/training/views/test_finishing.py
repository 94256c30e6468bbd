"""The last steps of views on the device are those of Pillow, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from source_batches import noise_image, smooth_image, stacked

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views.augment import Augmentation, Finish, draw_view, finish
from cnn_tl.data.views.transforms import mean_colour
from cnn_tl.training.views.finishing import finished, grey

SPEC = Preprocessing(48, 64, "bicubic", 0.875, "center", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
COLOUR = torch.tensor(mean_colour(SPEC), dtype=torch.uint8)
PLAIN = Augmentation(0.5, True, 0.2)
SETTINGS = [PLAIN, replace(PLAIN, color=1), replace(PLAIN, color=0, erasing=0.5), replace(PLAIN, erasing=0.5)]
VIEWS = 200


@pytest.mark.parametrize("kind", [noise_image, smooth_image], ids=["noise", "smooth"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_same_pixels_as_from_pillow(settings: Augmentation, kind: Callable[..., Image.Image]) -> None:
    views = [kind(64, 48, seed % 20) for seed in range(VIEWS)]
    finishes = [draw_view(64, 48, SPEC, settings, seed).finish for seed in range(VIEWS)]
    found = finished(stacked(views), finishes, COLOUR)
    assert found.dtype == torch.uint8
    by_pillow = [finish(view.copy(), last, SPEC) for view, last in zip(views, finishes, strict=True)]
    assert torch.equal(found, stacked(by_pillow))


def test_large_images_are_as_exact() -> None:
    """Sums of their grey have more bits than a float32."""
    image = Image.new("RGB", (600, 600), (255, 255, 254))
    last = Finish((1.0, 0.3, 1.2), None)
    assert torch.equal(finished(stacked([image]), [last], COLOUR), stacked([finish(image, last, SPEC)]))


def test_torchvision_jitters_alike() -> None:
    """Its contrast blends with a mean that is not rounded."""
    from torchvision.transforms.v2 import functional

    image, factors = noise_image(64, 48), (1.3, 0.6, 1.7)
    theirs = stacked([image])[0].permute(2, 0, 1)
    for change, factor in zip(("brightness", "contrast", "saturation"), factors, strict=True):
        theirs = getattr(functional, f"adjust_{change}")(theirs, factor)
    [ours] = finished(stacked([image]), [Finish(factors, None)], COLOUR)
    assert (ours.int() - theirs.permute(1, 2, 0).int()).abs().max() <= 3


def test_grey_is_pillows_for_all_kinds_of_colours() -> None:
    image = noise_image(2000, 1000)
    assert np.array_equal(grey(stacked([image]))[0, :, :, 0].numpy(), np.asarray(image.convert("L")))


def test_a_hole_and_no_hole_in_one_batch() -> None:
    pixels = torch.full((2, 4, 5, 3), 9, dtype=torch.uint8)
    colour = torch.tensor([1, 2, 3], dtype=torch.uint8)
    found = finished(pixels, [Finish(None, (1, 2, 3, 4)), Finish(None, None)], colour)
    assert (found[0, 2:4, 1:3] == colour).all()
    assert (found == 9).all(-1).sum() == 2 * 4 * 5 - 4
    assert (pixels == 9).all(), "what was given stays"

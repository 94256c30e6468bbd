"""Views of training images on the GPU: near to Pillow's, and to the bit the same in any batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image
from source_batches import crop_by_pillow, noise_image, smooth_image, sources_of, stacked
from torch import Tensor

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views.augment import Augmentation, View, draw_view, finish
from cnn_tl.data.views.image_source import source_side
from cnn_tl.training.views.random_views import RandomViews

pytestmark = pytest.mark.gpu

SPEC = Preprocessing(224, 224, "bicubic", 0.875, "center", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = Augmentation(0.35, flip=True, color=0.0)
SIDE = source_side(SPEC, PLAIN)
SIZES = [(SIDE, SIDE), (SIDE + 30, SIDE - 40), (SIDE // 2, SIDE), (200, 133), (2 * SIDE, SIDE // 2), (9, 300), (1, 1)]
SETTINGS = [
    PLAIN,
    replace(PLAIN, color=0.5, erasing=0.5),
    replace(PLAIN, policy="trivialaugment"),
    replace(PLAIN, policy="randaugment", magnitude=9, ops=2),
]
IDS = ["crop", "light", "trivialaugment", "randaugment"]


def image_of(number: int) -> Image.Image:
    make = smooth_image if number % 2 else noise_image
    return make(*SIZES[number % len(SIZES)], number)


def drawn(settings: Augmentation, chosen: list[int]) -> list[View]:
    return [draw_view(*image_of(number).size, SPEC, settings, number) for number in chosen]


def views(device: str, settings: Augmentation, chosen: list[int]) -> Tensor:
    """Return views of the images with these numbers, computed as one batch."""
    sources = sources_of([image_of(number) for number in chosen], device)
    return RandomViews(SPEC, settings, torch.device(device))(sources, drawn(settings, chosen)).cpu()


@pytest.mark.parametrize("settings", SETTINGS[:2], ids=IDS[:2])
def test_near_to_pillows(device: str, settings: Augmentation) -> None:
    chosen = list(range(28))
    theirs = [
        finish(crop_by_pillow(image_of(number), view, SPEC), view.finish, SPEC)
        for number, view in zip(chosen, drawn(settings, chosen), strict=True)
    ]
    apart = (views(device, settings, chosen).int() - stacked(theirs).int()).abs()
    assert apart.float().mean() <= 0.3
    assert apart.max() <= (8 if settings.color else 3), "brighter by half, three times"


@pytest.mark.parametrize("settings", SETTINGS, ids=IDS)
def test_the_other_images_of_a_batch_do_not_count(device: str, settings: Augmentation) -> None:
    chosen = list(range(70))
    together = views(device, settings, chosen)
    assert torch.equal(views(device, settings, chosen[::-1]), together.flip(0))
    assert torch.equal(torch.cat([views(device, settings, [number]) for number in chosen[:9]]), together[:9])
    assert torch.equal(views(device, settings, chosen[5:40]), together[5:40])

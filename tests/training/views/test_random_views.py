"""Whole views on the device: what the threads make of the same draw, and nothing that waits for the device."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from source_batches import noise_image, smooth_image, sources_of

from cnn_tl.core.device import autocast, deterministic, waiting_forbidden
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views.augment import Augmentation, augment, draw_view
from cnn_tl.training.views.random_views import RandomViews

SPEC = Preprocessing(48, 64, "bicubic", 0.875, "center", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN = Augmentation(0.35, True, 0.2)
SETTINGS = [
    PLAIN,
    replace(PLAIN, erasing=0.5),
    replace(PLAIN, color=0.0, policy="randaugment", magnitude=9, ops=2),
    replace(PLAIN, policy="trivialaugment", erasing=0.5),
]
CPU = torch.device("cpu")
IMAGES = [smooth_image(96 - seed % 30, 60 + seed % 30, seed) for seed in range(70)]


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_they_are_the_views_of_the_threads(settings: Augmentation, precision: torch.dtype) -> None:
    drawn = [draw_view(*image.size, SPEC, settings, seed) for seed, image in enumerate(IMAGES)]
    found = RandomViews(SPEC, settings, CPU, precision)(sources_of(IMAGES), drawn)
    assert (found.dtype, found.shape, found.is_contiguous()) == (torch.uint8, (len(IMAGES), 48, 64, 3), True)
    by_threads = np.stack([augment(image, SPEC, settings, seed) for seed, image in enumerate(IMAGES)])
    off = (found.int() - torch.from_numpy(by_threads).int()).abs().float().mean((1, 2, 3))
    most = 0.3 if settings.policy == "none" else 0.6  # operations such as solarizing enlarge differences
    assert off.mean() <= 0.3
    assert (off > most).sum() <= 2


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_view_does_not_depend_on_its_companions(settings: Augmentation) -> None:
    drawn = [draw_view(*image.size, SPEC, settings, seed) for seed, image in enumerate(IMAGES)]
    views = RandomViews(SPEC, settings, CPU)
    together = views(sources_of(IMAGES), drawn)
    backwards = views(sources_of(IMAGES[::-1], gap=7), drawn[::-1]).flip(0)
    assert torch.equal(together, backwards)
    for place in (0, 33, 69):
        assert torch.equal(views(sources_of([IMAGES[place]]), [drawn[place]])[0], together[place])


def test_the_precision_of_the_network_does_not_matter() -> None:
    drawn = [draw_view(*image.size, SPEC, PLAIN, seed) for seed, image in enumerate(IMAGES)]
    views, sources = RandomViews(SPEC, PLAIN, CPU), sources_of(IMAGES)
    expected = views(sources, drawn)
    with autocast(CPU, "bf16"):
        assert torch.equal(views(sources, drawn), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("wanted", [False, True], ids=["fast", "deterministic"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_gpu_makes_the_same_views_and_nothing_waits_for_it(settings: Augmentation, wanted: bool) -> None:
    images = [noise_image(96, 96, seed) for seed in range(40)] + IMAGES
    drawn = [draw_view(*image.size, SPEC, settings, seed) for seed, image in enumerate(images)]
    there = sources_of(images, "cuda")
    with deterministic(wanted):
        views = RandomViews(SPEC, settings, torch.device("cuda"))
        first = views(there, drawn)
        with nullcontext() if wanted else waiting_forbidden():
            again = views(there, drawn)
        [alone] = views(sources_of(images[50:51], "cuda"), drawn[50:51])
    assert torch.equal(first, again)
    assert torch.equal(alone, first[50])
    exact = RandomViews(SPEC, settings, CPU)(sources_of(images), drawn)
    off = (first.cpu().int() - exact.int()).abs().float()
    assert off.mean() < 0.3
    if settings.policy == "none":
        assert off.max() <= 8  # 2 before the light, which makes it up to 1.2 times as large three times


@pytest.mark.gpu
def test_float32_is_as_exact_on_a_gpu() -> None:
    drawn = [draw_view(*image.size, SPEC, PLAIN, seed) for seed, image in enumerate(IMAGES)]
    on_gpu = RandomViews(SPEC, PLAIN, torch.device("cuda"), torch.float32)(sources_of(IMAGES, "cuda"), drawn)
    exact = RandomViews(SPEC, PLAIN, CPU)(sources_of(IMAGES), drawn)
    assert (on_gpu.cpu() != exact).float().mean() < 0.01

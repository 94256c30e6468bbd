"""Crops on the device beside Pillow's, whatever the image's shape, the filter and the size of the network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from source_batches import crop_by_pillow, noise_image, smooth_image, sources_of, stacked
from torch import Tensor

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views.augment import Augmentation, Finish, View, augment, draw_view
from cnn_tl.data.views.image_source import source_side
from cnn_tl.training.views import crops
from cnn_tl.training.views.crops import CHUNK, Crops

SPEC = Preprocessing(48, 64, "bicubic", 0.875, "center", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SETTINGS = Augmentation(0.35, flip=True, color=0.0)
SIDE = source_side(SPEC, SETTINGS)
SIZES = [
    (SIDE, SIDE), (2 * SIDE, SIDE // 2), (SIDE // 2, 2 * SIDE), (8 * SIDE, SIDE // 8), (SIDE // 8, 8 * SIDE),
    (SIDE * SIDE, 1), (1, SIDE * SIDE), (1, 1), (3, 5), (64, 48), (40, 30), (7, 300), (SIDE - 1, SIDE + 1),
]  # fmt: skip
CPU = torch.device("cpu")


def views_of(images: list[Image.Image], spec: Preprocessing = SPEC, settings: Augmentation = SETTINGS) -> list[View]:
    return [draw_view(image.width, image.height, spec, settings, seed) for seed, image in enumerate(images)]


def apart(found: Tensor, images: list[Image.Image], drawn: list[View], spec: Preprocessing) -> Tensor:
    """Return by how much each value is off Pillow's."""
    pillow = stacked([crop_by_pillow(image, view, spec) for image, view in zip(images, drawn, strict=True)])
    assert (found.dtype, found.shape) == (torch.uint8, pillow.shape)
    return (found.cpu().int() - pillow.int()).abs()


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("input_size", [(48, 64), (64, 64), (65, 31)])
def test_noise_of_any_shape_is_cropped_as_by_pillow(interpolation: str, input_size: tuple[int, int]) -> None:
    height, width = input_size
    spec = replace(SPEC, height=height, width=width, interpolation=interpolation)
    side = source_side(spec, SETTINGS)
    images = [noise_image(*size, seed) for seed, size in enumerate(SIZES * 2) if size[0] * size[1] <= side * side]
    drawn = views_of(images, spec)
    assert {view.flipped for view in drawn} == {False, True}
    found = apart(Crops(spec, SETTINGS, CPU, torch.float32)(sources_of(images), drawn), images, drawn, spec)
    assert (found > 0).float().mean() < 0.01, "rounded the other way, where it is a tie or nearly one"
    assert interpolation == "nearest" or found.max() <= 1


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_half_precision_is_off_by_little(interpolation: str) -> None:
    spec = replace(SPEC, interpolation=interpolation)
    images = [noise_image(*size, seed) for seed, size in enumerate(SIZES)]
    drawn = views_of(images, spec)
    found = apart(Crops(spec, SETTINGS, CPU, torch.float16)(sources_of(images), drawn), images, drawn, spec)
    assert found.max() <= 2
    assert found.float().mean() < 0.1


@pytest.mark.parametrize("settings", [Augmentation(0.08, True, 0.0), Augmentation(1.0, False, 0.0)], ids=str)
def test_the_smallest_and_the_largest_crops(settings: Augmentation) -> None:
    side = source_side(SPEC, settings)
    images = [noise_image(side, side, seed) for seed in range(20)]
    drawn = views_of(images, settings=settings)
    found = apart(Crops(SPEC, settings, CPU, torch.float32)(sources_of(images), drawn), images, drawn, SPEC)
    assert found.max() <= 1


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, SIDE, SIDE), (0, 0, 64, 48), (17, 5, 81, 53), (SIDE - 64, SIDE - 48, SIDE, SIDE), (0, 0, 32, 24),
        (1, 1, 1.001, 1.001), (SIDE - 0.001, SIDE - 0.001, SIDE, SIDE), (0.5, 0.5, 64.5, 48.5),
    ],
)  # fmt: skip
@pytest.mark.parametrize("flipped", [False, True])
def test_boxes_of_note(box: tuple[float, float, float, float], flipped: bool) -> None:
    """The whole image, no change of size, the corner, whole factors, and hardly anything."""
    view = View(box, flipped, [], Finish(None, None))
    image = noise_image(SIDE, SIDE)
    found = apart(Crops(SPEC, SETTINGS, CPU, torch.float32)(sources_of([image]), [view]), [image], [view], SPEC)
    assert found.max() <= 1
    assert found.float().mean() < 0.01


def test_they_are_the_crops_of_the_threads() -> None:
    """Of smooth images, such as photographs, also where Pillow resizes along y first."""
    images = [smooth_image(*size, seed) for seed, size in enumerate(SIZES)]
    found = Crops(SPEC, SETTINGS, CPU, torch.float32)(sources_of(images), views_of(images))
    by_threads = [augment(image, SPEC, SETTINGS, seed) for seed, image in enumerate(images)]
    off = (found.int() - torch.from_numpy(np.stack(by_threads)).int()).abs()
    assert off.max() <= 3
    assert off.float().mean((1, 2, 3)).max() < 0.3


def test_torchvision_crops_alike() -> None:
    """It resizes with the same filter, but only boxes of whole pixels, which it takes for the whole image."""
    from torchvision.transforms.v2.functional import resized_crop

    image = noise_image(SIDE, SIDE)
    for left, top, right, bottom in [(0, 0, SIDE, SIDE), (0, 0, 90, 70), (0, 10, SIDE, SIDE - 10)]:
        whole = image.crop((left, top, right, bottom))
        view = View((0, 0, whole.width, whole.height), False, [], Finish(None, None))
        [ours] = Crops(SPEC, SETTINGS, CPU, torch.float32)(sources_of([whole]), [view])
        theirs = resized_crop(
            stacked([image])[0].permute(2, 0, 1), top, left, bottom - top, right - left,
            [SPEC.height, SPEC.width], interpolation=3, antialias=True,
        )  # fmt: skip
        off = (ours.int() - theirs.permute(1, 2, 0).int()).abs()
        assert off.max() <= 3
        assert off.float().mean() < 0.3


@pytest.mark.parametrize("precision", [torch.float32, torch.float16])
def test_a_view_does_not_depend_on_its_companions(precision: torch.dtype) -> None:
    images = [noise_image(*SIZES[seed % len(SIZES)], seed) for seed in range(CHUNK + 5)]
    drawn, computed = views_of(images), Crops(SPEC, SETTINGS, CPU, precision)
    together = computed(sources_of(images), drawn)
    backwards = computed(sources_of(images[::-1], gap=11), drawn[::-1]).flip(0)
    assert torch.equal(together, backwards)
    for place in range(0, len(images), 3):
        [alone] = computed(sources_of([images[place]]), [drawn[place]])
        assert torch.equal(alone, together[place]), place


def test_it_does_not_matter_how_many_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [noise_image(*SIZES[seed % len(SIZES)], seed) for seed in range(2 * CHUNK + 5)]
    drawn, sources = views_of(images), sources_of(images)
    expected = Crops(SPEC, SETTINGS, CPU, torch.float32)(sources, drawn)
    for most in (1, CHUNK * 3 * 112 * 144 * 2):
        monkeypatch.setattr(crops, "WINDOW_BYTES", most)
        assert torch.equal(Crops(SPEC, SETTINGS, CPU, torch.float32)(sources, drawn), expected)


def test_where_memory_runs_out_fewer_are_computed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = [noise_image(20, 30, seed) for seed in range(2 * CHUNK + 5)]
    drawn, sources, computed = views_of(images), sources_of(images), Crops(SPEC, SETTINGS, CPU, torch.float32)
    expected, real, counts = computed(sources, drawn), Crops._some, []

    def small_memory(self: Crops, pixels: Tensor, geometry: Tensor, boxes: Any) -> Tensor:
        counts.append(geometry.shape[1])
        if counts[-1] > CHUNK:
            raise torch.OutOfMemoryError
        return real(self, pixels, geometry, boxes)

    monkeypatch.setattr(Crops, "_some", small_memory)
    assert torch.equal(computed(sources, drawn), expected)
    assert torch.equal(computed(sources, drawn), expected)
    assert counts == [3 * CHUNK, *[CHUNK] * 6]
    monkeypatch.setattr(Crops, "_some", lambda *given: small_memory(*given[:2], geometry=torch.empty(3, 99), boxes=0))
    with pytest.raises(torch.OutOfMemoryError):
        computed(sources, drawn)


@pytest.mark.parametrize("gap", [0, 1, 5000])
@pytest.mark.parametrize("size", [(1, 1), (1, SIDE * SIDE), (SIDE * SIDE, 1), (8, 20), (SIDE, SIDE)])
def test_what_lies_beside_an_image_is_not_read(size: tuple[int, int], gap: int) -> None:
    """At the beginning and at the end of all pixels too, where a window reaches beyond them."""
    image, computed = noise_image(*size), Crops(SPEC, SETTINGS, CPU, torch.float32)
    alone = sources_of([image])
    for seed in range(5):
        view = draw_view(*size, SPEC, SETTINGS, seed)
        found = computed(sources_of([image, image], gap=gap), [view, view])
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[:1], computed(alone, [view]))


def test_many_pixels_are_not_copied() -> None:
    """They may take most of a GPU's memory."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Sizes(TorchDispatchMode):
        largest = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            made = func(*args, **(kwargs or {}))
            if isinstance(made, Tensor) and made.untyped_storage().data_ptr() != sources.pixels.data_ptr():
                self.largest = max(self.largest, made.untyped_storage().nbytes())
            return made

    image, computed = noise_image(SIDE, SIDE), Crops(SPEC, SETTINGS, CPU, torch.float32)
    sources = sources_of([image], gap=20_000_000)
    with Sizes() as sizes:
        computed(sources, views_of([image]))
    assert 1_000_000 < sizes.largest < 20_000_000


def test_sources_that_are_larger_than_agreed_are_noticed() -> None:
    image = noise_image(2 * SIDE, 2 * SIDE)
    view = View((0, 0, 2 * SIDE, 2 * SIDE), False, [], Finish(None, None))
    with pytest.raises(AssertionError, match="too large"):
        Crops(SPEC, SETTINGS, CPU, torch.float32)(sources_of([image]), [view])

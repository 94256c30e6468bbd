"""The proof that an export is the same model: its logits beside those of the torch model, image by image.

Both sides get the same decoded images. Prepared ones go into both networks exactly as `predict` has them; where the
preprocessing is inside the export, whole ones go into that, too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.core import files
from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import ArtefactError, BadImageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.progress import Observer
from cnn_tl.core.seeds import seed_of
from cnn_tl.data.decoding.image import read_image
from cnn_tl.data.loader import Pixels, batches
from cnn_tl.data.manifest import ImageRecord, Manifest
from cnn_tl.data.views import transforms
from cnn_tl.networks.backbone import place, to_input
from cnn_tl.networks.bundle import Bundle, run_of

Logits = NDArray[np.float32]


Given = Literal["prepared", "whole"]
"""Whether an export was given images resized and cropped, or whole ones."""


class Exported(Protocol):
    """A written file, read back and ready to run."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What the file says about itself."""

    @property
    def inside(self) -> bool:
        """Whether the preprocessing is inside."""

    def __call__(self, x: NDArray[Any], /) -> Logits:
        """Return the logits [N, K] of prepared images, uint8, or of normalised ones where nothing is inside."""

    def whole(self, images_nhwc: NDArray[np.uint8], /) -> Logits:
        """Return the logits [N, K] of whole images of one size, where the preprocessing is inside."""


class TakesNormalised:
    """What is read back of a format that does no preprocessing."""

    inside = False

    def whole(self, images_nhwc: NDArray[np.uint8], /) -> Logits:
        """Refuse: it takes prepared images."""
        raise NotImplementedError


BATCH_SIZES = (1, 2, 7, 33)
LARGEST_DIFFERENCE = 1e-4
"""Between two logits, as a share of the largest logit, or of 1 if all are smaller."""
LARGEST_DIFFERENCE_WHOLE = 5e-3
"""The same for whole images: two ways to resize round a value of a pixel differently now and then."""
MOST_IMAGES = 1000
MOST_IN_SMALL_BATCHES = 140
MOST_WHOLE = 66
MOST_SIZES = 16
"""Sizes of whole images that are compared in batches of each size, be they ever so large."""
RANDOM_IMAGES = 64
RANDOM_SIZES = ((97, 131), (480, 360), (224, 224), (60, 200))
"""Height and width, in pixels, of the whole images that are made where there are none."""

_BLOCK = 66  # images read at a time: whole batches of each size but seven
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Agreement:
    """How well two models agree at one batch size.

    Attributes:
        given: the export was given images resized and cropped, or whole ones.
        batch_size: images that went through the export at once.
        images: how many were compared.
        largest_difference: between two logits of the same image and class.
        allowed_difference: where a mismatch begins.
        top1: the share of images for which both put the same class first.
        ties: how many of the others have two first classes that the torch model has closer together than the allowed
            difference.
        sizes: how many different heights and widths the images had.
    """

    given: Given
    batch_size: int
    images: int
    largest_difference: float
    allowed_difference: float
    top1: float
    ties: int = 0
    sizes: int = 1

    @property
    def same(self) -> int:
        """How many images both put into the same class."""
        return round(self.top1 * self.images)

    @property
    def holds(self) -> bool:
        """Say whether this is the same model; NaN is not."""
        return self.largest_difference <= self.allowed_difference and self.same + self.ties == self.images


def compare(trained: Bundle, export: Exported, observer: Observer) -> tuple[tuple[Agreement, ...], str]:
    """Compare the models on validation images, or on random ones where those are gone.

    At most 1,000 images, chosen by lot; all of them go through in the largest batches, the first 140 in the
    smaller ones too. Where the export takes whole images, the first 66 go through whole as well, as far as they fill
    batches of one height and width.

    Returns:
        The agreement for each way to give images at each batch size, and what kind of images they were, in words.
    """
    chosen, total = validation_images(trained.path)
    reference = _Reference(trained)
    with observer.task("comparing", len(chosen)):
        real = _validation_pixels(chosen, trained.preprocessing)
        agreements = _agreements(reference, export, real, observer)
    if agreements:
        of_all = f" (drawn from {total:,})" if agreements[-1].images < total else ""
        whole = _whole_images(chosen, trained.preprocessing)
        return agreements + _whole_agreements(reference, export, whole), f"validation images{of_all}"
    observer.warn("the validation images are not here, so random ones are compared")
    with observer.task("comparing", RANDOM_IMAGES):
        agreements = _agreements(reference, export, _random_pixels(trained.preprocessing), observer)
    agreements += _whole_agreements(reference, export, _random_whole())
    return agreements, "random images (the validation images are not here)"


def require(agreements: tuple[Agreement, ...], images: str) -> None:
    """Refuse an export that is another model.

    Raises:
        ArtefactError: logits or answers differ; the message says by how much.
    """
    for found in agreements:
        if not found.holds:
            raise ArtefactError(
                f"the export is another model: for {found.given} images in batches of {found.batch_size} its logits "
                f"differ by up to {found.largest_difference:.2g} ({found.allowed_difference:.2g} is allowed) and "
                f"{found.same:,} of {found.images:,} answers agree, on {images}; no file was written"
            )


def manifest_of(bundle: Path) -> Manifest | None:
    """Return the manifest of the run that a bundle lies in; None for a lone bundle.

    Raises:
        ArtefactError: it is damaged.
    """
    run = run_of(bundle)
    path = run / "manifest.json" if run else None
    return Manifest.from_json(files.read_json(path)) if path and path.is_file() else None


def lot(manifest: Manifest) -> list[ImageRecord]:
    """Return the validation images that exports are compared on: at most 1,000, the same each time."""
    images = manifest.of("val")
    return random.Random(0).sample(images, min(len(images), MOST_IMAGES))


def validation_images(bundle: Path) -> tuple[list[Path], int]:
    """Return the validation images to compare on, and how many the run has; none for a lone bundle.

    Raises:
        ArtefactError: the run's manifest is damaged.
    """
    manifest = manifest_of(bundle)
    if manifest is None:
        return [], 0
    return [manifest.file(image) for image in lot(manifest)], len(manifest.of("val"))


def _validation_pixels(images: list[Path], spec: Preprocessing) -> Iterator[Pixels]:
    def read(path: Path) -> Pixels:
        return transforms.read_pixels(path, spec)

    for batch in batches(images, read, batch_size=_BLOCK, workers=default_workers()):
        if batch.items:
            yield batch.pixels


def _random_pixels(spec: Preprocessing) -> Iterator[Pixels]:
    generator = np.random.default_rng(seed_of("parity"))
    for start in range(0, RANDOM_IMAGES, _BLOCK):
        count = min(_BLOCK, RANDOM_IMAGES - start)
        yield generator.integers(0, 256, (count, spec.height, spec.width, 3), np.uint8)


class _Reference:
    """The torch model, on the CPU, as predict runs it."""

    def __init__(self, trained: Bundle) -> None:
        self.spec = trained.preprocessing
        self._model = place(trained.model, _CPU)

    def __call__(self, pixels: Pixels) -> Logits:
        with torch.inference_mode():
            return self._model(to_input(pixels, self.spec, _CPU)).numpy()  # type: ignore[no-any-return]


def _agreements(
    reference: _Reference, export: Exported, blocks: Iterator[Pixels], observer: Observer
) -> tuple[Agreement, ...]:
    """Run both models over all images; nothing comes back if there are none."""
    expected: list[Logits] = []
    found: dict[int, list[Logits]] = {size: [] for size in BATCH_SIZES}
    done = 0
    for pixels in blocks:
        expected.append(reference(pixels))
        x = pixels if export.inside else transforms.normalise(pixels, reference.spec)
        for size in BATCH_SIZES if done < MOST_IN_SMALL_BATCHES else BATCH_SIZES[-1:]:
            found[size].append(_in_batches(export, x, size))
        done += len(pixels)
        observer.advance(len(pixels))
    if not expected:
        return ()
    logits = np.concatenate(expected)
    return tuple(_agreement("prepared", size, logits, np.concatenate(found[size])) for size in BATCH_SIZES)


def _whole_agreements(
    reference: _Reference, export: Exported, images: Sequence[NDArray[np.uint8]]
) -> tuple[Agreement, ...]:
    """Run whole images through the export, each batch of one size; those of a size come up again to fill it."""
    if not export.inside or not images:
        return ()
    spec = reference.spec
    logits = reference(np.stack([transforms.resize_and_crop(Image.fromarray(one), spec) for one in images]))
    sizes: dict[tuple[int, ...], list[int]] = {}
    for number, image in enumerate(images):
        sizes.setdefault(image.shape, []).append(number)
    agreements = []
    for batch_size in BATCH_SIZES:
        batched = _of_one_size(list(sizes.values()), batch_size)
        found = np.concatenate([export.whole(np.stack([images[n] for n in numbers])) for numbers in batched])
        order = np.concatenate(batched)
        once = np.unique(order, return_index=True)[1]  # each counts once, and none of its logits may be far off
        compared = _agreement("whole", batch_size, logits[order[once]], found[once])
        largest, seen = np.abs(found - logits[order]).max(), {images[numbers[0]].shape for numbers in batched}
        agreements.append(replace(compared, largest_difference=float(largest), sizes=len(seen)))
    return tuple(agreements)


def _of_one_size(sizes: list[list[int]], batch_size: int) -> list[list[int]]:
    """Return batches of images of one size each, by their numbers: first one of each size, the most frequent first.

    Args:
        sizes: the numbers of the images of each size.
    """
    rounds = [
        [(numbers * batch_size)[start : start + batch_size] for start in range(0, len(numbers), batch_size)]
        for numbers in sorted(sizes, key=len, reverse=True)
    ]
    in_turn = [batch for turn in zip_longest(*rounds) for batch in turn if batch]
    return in_turn[: max(-(-MOST_WHOLE // batch_size), min(len(sizes), MOST_SIZES))]


def _whole_images(paths: Sequence[Path], spec: Preprocessing) -> list[NDArray[np.uint8]]:
    """Return images as predict decodes them, before it resizes them."""
    images = []
    for path in paths[:MOST_WHOLE]:
        try:
            images.append(np.asarray(read_image(path, spec, draft=transforms.draft_size(spec))))
        except BadImageError:  # gone or changed since training: the others tell enough
            continue
    return images


def _random_whole() -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(seed_of("parity", "whole"))
    return [generator.integers(0, 256, (height, width, 3), np.uint8) for height, width in RANDOM_SIZES]


def _in_batches(export: Callable[[NDArray[Any]], Logits], x: NDArray[Any], size: int) -> Logits:
    """Run all images in batches of exactly `size`; the last one is filled up with the first images again."""
    count = len(x)
    full = x[np.arange(-(-count // size) * size) % count]
    return np.concatenate([export(full[i : i + size]) for i in range(0, len(full), size)])[:count]


def _agreement(given: Given, batch_size: int, expected: Logits, found: Logits) -> Agreement:
    expected = expected[: len(found)]
    share = LARGEST_DIFFERENCE if given == "prepared" else LARGEST_DIFFERENCE_WHOLE
    allowed = share * max(1.0, float(np.abs(expected).max()))
    each, first = np.arange(len(found)), found.argmax(1)
    same = first == expected.argmax(1)
    tied = ~same & (expected.max(1) - expected[each, first] <= allowed)
    return Agreement(
        given=given,
        batch_size=batch_size,
        images=len(found),
        largest_difference=float(np.abs(found - expected).max()),
        allowed_difference=allowed,
        top1=float(same.mean()),
        ties=int(tied.sum()),
    )

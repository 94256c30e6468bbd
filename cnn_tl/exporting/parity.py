"""Prove that an export is the same model: compare its outputs with those of the original, image by image.

Both get the same decoded images. Prepared images (resized and cropped as for predict) go into both networks; if the
export has the preprocessing inside, whole images go into it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.core.errors import ArtefactError
from cnn_tl.core.progress import Observer
from cnn_tl.data.loader import Pixels
from cnn_tl.data.views import transforms
from cnn_tl.exporting.comparison_images import (
    MOST_WHOLE,
    RANDOM_IMAGES,
    random_pixels,
    random_whole_images,
    validation_images,
    validation_pixels,
    whole_images,
)
from cnn_tl.exporting.original import Original, Outputs

Given = Literal["prepared", "whole"]
"""What an export was given: images that were resized and cropped already, or whole ones."""


class Exported(Protocol):
    """A written export, read back and ready to run."""

    @property
    def facts(self) -> Mapping[str, str]:
        """The metadata of the file."""

    @property
    def inside(self) -> bool:
        """Whether the export does the preprocessing."""

    def __call__(self, x: NDArray[Any], /) -> Outputs:
        """Return the outputs of prepared images: uint8 if the preprocessing is inside, else normalised.

        These are the logits [N, K], or [N, K + 1] where the last column is the distance, if the export gives it.
        """

    def whole(self, images_nhwc: NDArray[np.uint8], /) -> Outputs:
        """Return the outputs of whole images of one size; only if the preprocessing is inside."""


class TakesNormalised:
    """An export without preprocessing."""

    inside = False

    def whole(self, images_nhwc: NDArray[np.uint8], /) -> Outputs:
        """Refuse, as it takes normalised images."""
        raise NotImplementedError


BATCH_SIZES = (1, 2, 7, 33)
LARGEST_DIFFERENCE = 1e-4
"""Between two logits, relative to the largest logit, or to 1 if all are smaller."""
LARGEST_DISTANCE_DIFFERENCE = 5e-3
"""Between two distances, relative to the distance, or to 1 if it is smaller. Where features hardly differ between
images, as in a network after its first steps, distances magnify their rounding."""
LARGEST_DIFFERENCE_WHOLE, LARGEST_DISTANCE_DIFFERENCE_WHOLE = 5e-3, 2e-2
"""The same for whole images: two implementations of resizing sometimes round a pixel differently."""
MOST_IN_SMALL_BATCHES = 140
MOST_SIZES = 16
"""Whole images of at most this many sizes are compared, whatever the batch size."""


@dataclass(frozen=True)
class Agreement:
    """How well two models agree at one batch size.

    Attributes:
        given: what the export was given.
        batch_size: images that went through the export together.
        images: how many were compared.
        largest_difference: between two logits of the same image and class.
        allowed_difference: the largest that is accepted.
        top1: the share of images with the same answer.
        ties: how many other images have two top classes whose logits differ by less than the allowed difference.
        sizes: how many different heights and widths the images have.
        distance_difference: between two distances of the same image, relative; None if the export gives none.
        allowed_distance_difference: the largest that is accepted.
    """

    given: Given
    batch_size: int
    images: int
    largest_difference: float
    allowed_difference: float
    top1: float
    ties: int = 0
    sizes: int = 1
    distance_difference: float | None = None
    allowed_distance_difference: float | None = None

    @property
    def same(self) -> int:
        """How many images have the same answer."""
        return round(self.top1 * self.images)

    @property
    def holds(self) -> bool:
        """Whether this is the same model; a NaN means it is not."""
        same = self.largest_difference <= self.allowed_difference and self.same + self.ties == self.images
        return same and self.distance_holds

    @property
    def distance_holds(self) -> bool:
        """Whether the distances are the same, if there are any."""
        if self.distance_difference is None or self.allowed_distance_difference is None:
            return True
        return self.distance_difference <= self.allowed_distance_difference


def compare(
    bundle: Path, original: Original, export: Exported, observer: Observer
) -> tuple[tuple[Agreement, ...], str]:
    """Compare the models on validation images, or on random ones where these are gone.

    At most 1,000 images are drawn; all of them run in the largest batches, the first 140 in the smaller ones too. If
    the export takes whole images, the first 66 also run whole, in batches of one height and width.

    Args:
        bundle: the folder of the original, which may be in a run with validation images.

    Returns:
        The agreement for each kind of input and batch size, and what the images were, in words.
    """
    chosen, total = validation_images(bundle)
    with observer.task("comparing", len(chosen)):
        real = validation_pixels(chosen, original.spec)
        agreements = _agreements(original, export, real, observer)
    if agreements:
        of_all = f" (drawn from {total:,})" if agreements[-1].images < total else ""
        whole = whole_images(chosen, original.spec)
        return agreements + _whole_agreements(original, export, whole), f"validation images{of_all}"
    observer.warn("the validation images are not here; comparing on random images")
    with observer.task("comparing", RANDOM_IMAGES):
        agreements = _agreements(original, export, random_pixels(original.spec), observer)
    agreements += _whole_agreements(original, export, random_whole_images())
    return agreements, "random images (the validation images are not here)"


def require(agreements: tuple[Agreement, ...], images: str) -> None:
    """Refuse an export that is not the same model.

    Raises:
        ArtefactError: logits, answers or distances differ; the message says how much.
    """
    for found in agreements:
        if not found.distance_holds:
            raise ArtefactError(
                f"the export differs from the model: on {found.given} images in batches of {found.batch_size} "
                f"distances differ by up to {found.distance_difference:.2g} "
                f"({found.allowed_distance_difference:.2g} is allowed), on {images}; no file was written"
            )
        if not found.holds:
            raise ArtefactError(
                f"the export differs from the model: on {found.given} images in batches of {found.batch_size} logits "
                f"differ by up to {found.largest_difference:.2g} ({found.allowed_difference:.2g} is allowed) and "
                f"{found.same:,} of {found.images:,} answers agree, on {images}; no file was written"
            )


def _agreements(
    original: Original, export: Exported, blocks: Iterator[Pixels], observer: Observer
) -> tuple[Agreement, ...]:
    """Run both models on all images; returns nothing if there are none."""
    expected: list[Outputs] = []
    found: dict[int, list[Outputs]] = {size: [] for size in BATCH_SIZES}
    done = 0
    for pixels in blocks:
        expected.append(original.outputs(pixels))
        x = pixels if export.inside else transforms.normalise(pixels, original.spec)
        for size in BATCH_SIZES if done < MOST_IN_SMALL_BATCHES else BATCH_SIZES[-1:]:
            found[size].append(_in_batches(export, x, size))
        done += len(pixels)
        observer.advance(len(pixels))
    if not expected:
        return ()
    outputs, classes = np.concatenate(expected), original.num_classes
    return tuple(_agreement("prepared", size, classes, outputs, np.concatenate(found[size])) for size in BATCH_SIZES)


def _whole_agreements(
    original: Original, export: Exported, images: Sequence[NDArray[np.uint8]]
) -> tuple[Agreement, ...]:
    """Run whole images through the export in batches of one size, filled up by repetition."""
    if not export.inside or not images:
        return ()
    spec = original.spec
    outputs = original.outputs(np.stack([transforms.resize_and_crop(Image.fromarray(one), spec) for one in images]))
    sizes: dict[tuple[int, ...], list[int]] = {}
    for number, image in enumerate(images):
        sizes.setdefault(image.shape, []).append(number)
    agreements = []
    for batch_size in BATCH_SIZES:
        batched = _batches_of_one_size(list(sizes.values()), batch_size)
        found = np.concatenate([export.whole(np.stack([images[n] for n in numbers])) for numbers in batched])
        order = np.concatenate(batched)
        once = np.unique(order, return_index=True)[1]  # an image counts once, but all its outputs are checked
        each, all_of_them = (
            _agreement("whole", batch_size, original.num_classes, outputs[order[chosen]], found[chosen])
            for chosen in (once, np.arange(len(order)))
        )
        shapes = {images[numbers[0]].shape for numbers in batched}
        agreements.append(replace(all_of_them, images=each.images, top1=each.top1, ties=each.ties, sizes=len(shapes)))
    return tuple(agreements)


def _batches_of_one_size(sizes: list[list[int]], batch_size: int) -> list[list[int]]:
    """Return batches of image numbers, each of one size; first a batch of each size, the most frequent size first.

    Args:
        sizes: for each size the numbers of its images.
    """
    rounds = [
        [(numbers * batch_size)[start : start + batch_size] for start in range(0, len(numbers), batch_size)]
        for numbers in sorted(sizes, key=len, reverse=True)
    ]
    in_turn = [batch for turn in zip_longest(*rounds) for batch in turn if batch]
    return in_turn[: max(-(-MOST_WHOLE // batch_size), min(len(sizes), MOST_SIZES))]


def _in_batches(export: Callable[[NDArray[Any]], Outputs], x: NDArray[Any], size: int) -> Outputs:
    """Run all images in batches of exactly `size`, the last one filled up with the first images."""
    count = len(x)
    full = x[np.arange(-(-count // size) * size) % count]
    return np.concatenate([export(full[i : i + size]) for i in range(0, len(full), size)])[:count]


def _agreement(given: Given, batch_size: int, num_classes: int, all_expected: Outputs, all_found: Outputs) -> Agreement:
    """Compare outputs; those of the export may be of fewer images, and may lack the distance."""
    expected, found = all_expected[: len(all_found), :num_classes], all_found[:, :num_classes]
    distances = all_expected[: len(all_found), num_classes:], all_found[:, num_classes:]
    share, allowed_distance = LARGEST_DIFFERENCE_WHOLE, LARGEST_DISTANCE_DIFFERENCE_WHOLE
    if given == "prepared":
        share, allowed_distance = LARGEST_DIFFERENCE, LARGEST_DISTANCE_DIFFERENCE
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
        **_of_distances(*distances, allowed_distance),
    )


def _of_distances(expected: Outputs, found: Outputs, allowed: float) -> dict[str, Any]:
    if not found.shape[1]:
        return {}
    differences = np.abs(found - expected) / np.maximum(expected, 1)
    return {
        "distance_difference": float(differences.max()),
        "allowed_distance_difference": allowed,
    }

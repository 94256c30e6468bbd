"""The proof that an export is the same model: its logits beside those of the torch model, picture by picture.

Both sides get their pixels and their numbers exactly as `predict` gets them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cnn_tl import files
from cnn_tl.data import transforms
from cnn_tl.data.loader import Pixels, batches
from cnn_tl.data.manifest import Manifest
from cnn_tl.errors import ArtefactError
from cnn_tl.networks.backbone import place, to_input
from cnn_tl.networks.bundle import Bundle
from cnn_tl.preprocessing import Preprocessing
from cnn_tl.progress import Observer
from cnn_tl.runtime import default_workers, seed_of

Logits = NDArray[np.float32]
Model = Callable[[NDArray[np.float32]], Logits]
"""From normalised pictures [N, 3, H, W] to logits [N, K]."""

BATCH_SIZES = (1, 2, 7)
LARGEST_DIFFERENCE = 1e-4
"""Between two logits, as a share of the largest logit, or of 1 if all are smaller."""
MOST_PICTURES = 1000
MOST_IN_SMALL_BATCHES = 140
RANDOM_PICTURES = 64

_BLOCK = 14  # pictures read at a time: whole batches of each size
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Agreement:
    """How well two models agree at one batch size.

    Attributes:
        batch_size: pictures that went through the export at once.
        pictures: how many were compared.
        largest_difference: between two logits of the same picture and class.
        allowed_difference: where a mismatch begins.
        top1: the share of pictures for which both put the same class first.
    """

    batch_size: int
    pictures: int
    largest_difference: float
    allowed_difference: float
    top1: float

    @property
    def holds(self) -> bool:
        """Say whether this is the same model; NaN is not."""
        return self.largest_difference <= self.allowed_difference and self.top1 == 1


def compare(trained: Bundle, export: Model, observer: Observer) -> tuple[tuple[Agreement, ...], str]:
    """Compare the models on validation pictures, or on random ones where those are gone.

    At most 1,000 pictures, chosen by lot; all of them go through in the largest batches, the first 140 in the
    smaller ones too.

    Returns:
        The agreement at each batch size, and the pictures in words.
    """
    chosen, total = validation_pictures(trained.path)
    with observer.task("comparing", len(chosen)):
        real = _validation_pixels(chosen, trained.preprocessing)
        agreements = _agreements(trained, export, real, observer)
    if agreements:
        count = agreements[-1].pictures
        of_all = f" of {total:,}" if count < total else ""
        return agreements, f"{count:,}{of_all} validation pictures"
    observer.warn("the validation pictures are not here, so random ones are compared")
    with observer.task("comparing", RANDOM_PICTURES):
        agreements = _agreements(trained, export, _random_pixels(trained.preprocessing), observer)
    return agreements, f"{RANDOM_PICTURES} random pictures: the validation pictures are not here"


def require(agreements: tuple[Agreement, ...], pictures: str) -> None:
    """Refuse an export that is another model.

    Raises:
        ArtefactError: logits or answers differ; the message says by how much.
    """
    for found in agreements:
        if not found.holds:
            raise ArtefactError(
                f"the export is another model: in batches of {found.batch_size} its logits differ by up to "
                f"{found.largest_difference:.2g} ({found.allowed_difference:.2g} is allowed) and "
                f"{found.top1:.1%} of its answers agree, on {pictures}; no file was written"
            )


def validation_pictures(bundle: Path) -> tuple[list[Path], int]:
    """Return the validation pictures to compare on, and how many the run has; none for a lone bundle.

    Raises:
        ArtefactError: the run's manifest is damaged.
    """
    path = bundle.resolve().parent / "manifest.json"
    if not path.is_file():
        return [], 0
    manifest = Manifest.from_json(files.read_json(path))
    pictures = manifest.of("val")
    lot = random.Random(0).sample(pictures, min(len(pictures), MOST_PICTURES))
    return [manifest.file(picture) for picture in lot], len(pictures)


def _validation_pixels(pictures: list[Path], spec: Preprocessing) -> Iterator[Pixels]:
    def read(path: Path) -> Pixels:
        return transforms.load(path, spec)

    for batch in batches(pictures, read, batch_size=_BLOCK, workers=default_workers()):
        if batch.items:
            yield batch.pixels


def _random_pixels(spec: Preprocessing) -> Iterator[Pixels]:
    generator = np.random.default_rng(seed_of("parity"))
    for start in range(0, RANDOM_PICTURES, _BLOCK):
        count = min(_BLOCK, RANDOM_PICTURES - start)
        yield generator.integers(0, 256, (count, spec.height, spec.width, 3), np.uint8)


def _agreements(
    trained: Bundle, export: Model, blocks: Iterator[Pixels], observer: Observer
) -> tuple[Agreement, ...]:
    """Run both models over all pictures; nothing comes back if there are none."""
    spec = trained.preprocessing
    model = place(trained.model, _CPU)
    expected: list[Logits] = []
    found: dict[int, list[Logits]] = {size: [] for size in BATCH_SIZES}
    for pixels in blocks:
        small = len(expected) * _BLOCK < MOST_IN_SMALL_BATCHES
        with torch.inference_mode():
            expected.append(model(to_input(pixels, spec, _CPU)).numpy())
        x_nchw = transforms.normalise(pixels, spec)
        for size in BATCH_SIZES if small else BATCH_SIZES[-1:]:
            found[size].append(_in_batches(export, x_nchw, size))
        observer.advance(len(pixels))
    if not expected:
        return ()
    reference = np.concatenate(expected)
    return tuple(_agreement(size, reference, np.concatenate(found[size])) for size in BATCH_SIZES)


def _in_batches(export: Model, x_nchw: NDArray[np.float32], size: int) -> Logits:
    """Run all pictures in batches of exactly `size`; the last one is filled up with the first pictures again."""
    count = len(x_nchw)
    full = x_nchw[np.arange(-(-count // size) * size) % count]
    return np.concatenate([export(full[i : i + size]) for i in range(0, len(full), size)])[:count]


def _agreement(batch_size: int, expected: Logits, found: Logits) -> Agreement:
    expected = expected[: len(found)]
    return Agreement(
        batch_size=batch_size,
        pictures=len(found),
        largest_difference=float(np.abs(found - expected).max()),
        allowed_difference=LARGEST_DIFFERENCE * max(1.0, float(np.abs(expected).max())),
        top1=float((found.argmax(1) == expected.argmax(1)).mean()),
    )

"""How far a model's answers hold when the images are moved, scaled, turned, blurred or lit otherwise.

A convolution is equivariant to translation: shift its input, and its output shifts. Strides and padding break that, and
the head sees what is left of it (Azulay and Weiss 2019; Zhang 2019), so it is measured rather than believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.progress import Observer
from cnn_tl.data.decoding.image import read_image
from cnn_tl.data.loader import Pixels, batches
from cnn_tl.data.views import transforms
from cnn_tl.evaluating.perturbations import PERTURBATIONS, View, handy, part_seen
from cnn_tl.inference.classifier import Classifier, Logits

_IMAGES_AT_ONCE = 4
"""Images in memory together, each with all its changed forms."""


@dataclass(frozen=True)
class Row:
    """One change at one strength, over all images and directions.

    Attributes:
        change: what is done, a key of `PERTURBATIONS`, or "none".
        level: how much. text: the same, as it is shown.
        accuracy: the share of right answers.
        agreement: the share of answers that are those to the unchanged image, right or wrong.
        views: how many answers that are; an image may be moved in four directions.
    """

    change: str
    level: float
    text: str
    accuracy: float
    agreement: float
    views: int


@dataclass(frozen=True)
class _Form:
    """A change at a strength, and where its views stand among all views of an image."""

    change: str
    level: float
    text: str
    place: slice


def measure(
    model: Classifier,
    images: Sequence[tuple[Path, int]],
    *,
    batch_size: int,
    workers: int,
    observer: Observer,
) -> tuple[Logits, dict[Path, str], tuple[Row, ...]]:
    """Let the model answer for every image in every form.

    Args:
        images: files with the place of their class.

    Returns:
        The logits [N, K] of the unchanged images that can be read, in their order; why the others cannot; the rows.
    """
    forms = _forms()

    def read(one: tuple[Path, int]) -> Pixels:
        return _views(one[0], model.preprocessing)

    plain: list[Logits] = []
    answers: list[NDArray[np.int64]] = []
    labels: list[int] = []
    unreadable: dict[Path, str] = {}
    with observer.task("evaluating all forms", len(images) * forms[-1].place.stop, "views"):
        for batch in batches(images, read, batch_size=_IMAGES_AT_ONCE, workers=workers):
            unreadable |= {path: error.reason for (path, _), error in batch.failures}
            labels += [label for _, label in batch.items]
            for views in batch.pixels:  # [V, H, W, 3]
                logits = stacked([model.logits(part) for part in _parts(views, batch_size)], len(model.classes))
                plain.append(logits[:1])
                answers.append(logits.argmax(1))
            observer.advance((len(batch.items) + len(batch.failures)) * forms[-1].place.stop)
    rows = _rows(forms, np.array(answers), np.array(labels)) if answers else ()
    return stacked(plain, len(model.classes)), unreadable, rows


def stacked(rows: Sequence[Logits], classes: int) -> Logits:
    """Return [N, K] from parts of it, of which there may be none."""
    return np.concatenate(rows) if rows else np.empty((0, classes), np.float32)


def _parts(views: Pixels, size: int) -> list[Pixels]:
    return [views[start : start + size] for start in range(0, len(views), size)]


def _views(path: Path, spec: Preprocessing) -> Pixels:
    """Return all forms of an image, uint8 [V, H, W, 3], the unchanged one first: what predict would see."""
    image = read_image(path, spec, draft=transforms.draft_size(spec))
    forms = [transforms.resize_and_crop(image, spec)]
    image = handy(image, spec)
    seen = part_seen(image, spec)
    for change in PERTURBATIONS.values():
        for level in change.levels:
            forms += [transforms.resize_and_crop(one, spec) for one in change.views(image, seen, level)]
    return np.stack(forms)


def _forms() -> list[_Form]:
    """Say where each change and strength stands, by making them all of an image that is quickly made."""
    forms = [_Form("none", 0.0, "", slice(0, 1))]
    image, seen = Image.new("RGB", (8, 8)), View(8, 8, 1, 1)
    for name, change in PERTURBATIONS.items():
        for level in change.levels:
            start = forms[-1].place.stop
            count = len(change.views(image, seen, level))
            forms.append(_Form(name, level, change.unit.format(level), slice(start, start + count)))
    return forms


def _rows(forms: Sequence[_Form], answers_NV: NDArray[np.int64], labels_N: NDArray[np.int64]) -> tuple[Row, ...]:
    plain_N1, labels_N1 = answers_NV[:, :1], labels_N[:, None]
    return tuple(
        Row(
            change=form.change,
            level=form.level,
            text=form.text,
            accuracy=float((answers_NV[:, form.place] == labels_N1).mean()),
            agreement=float((answers_NV[:, form.place] == plain_N1).mean()),
            views=answers_NV[:, form.place].size,
        )
        for form in forms
    )

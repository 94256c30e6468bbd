"""Robustness: how a model's answers change when images are shifted, scaled, rotated, blurred or relit.

A convolution is equivariant to translation: shift its input, and its output shifts. Strides and padding break that, and
the head sees what is left (Azulay and Weiss 2019; Zhang 2019), so it is measured and not assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.core.progress import Observer
from cnn_tl.data.loader import Pixels
from cnn_tl.data.reading.ahead import decoded_batches
from cnn_tl.data.reading.jobs import Job
from cnn_tl.evaluating.perturbations import PERTURBATIONS, ChangedForms, View
from cnn_tl.inference.classifier import Classifier, Logits, Outputs

_IMAGES_AT_ONCE = 4
"""Images in a batch, each with all its changed forms."""


@dataclass(frozen=True)
class RobustnessRow:
    """One change at one strength, over all images and directions.

    Attributes:
        change: a key of `PERTURBATIONS`, or "none".
        level: the strength. text: the same, as it is printed.
        accuracy: the share of right answers.
        agreement: the share of answers that equal the answer to the unchanged image, right or wrong.
        views: how many answers were compared; an image may be moved in four directions.
    """

    change: str
    level: float
    text: str
    accuracy: float
    agreement: float
    views: int


@dataclass(frozen=True)
class Predictions:
    """What a model answers to labelled images.

    Attributes:
        outputs: logits and, where the model knows them, distances of the readable images, [N, K] or [N, K + 1].
        num_classes: K.
        unreadable: why each of the others could not be read.
        rows: robustness, where it was measured.
    """

    outputs: Outputs
    num_classes: int
    unreadable: dict[Path, str]
    rows: tuple[RobustnessRow, ...] = ()

    @property
    def logits(self) -> Logits:
        """Return the logits, [N, K]."""
        return self.outputs[:, : self.num_classes]

    @property
    def distances(self) -> NDArray[np.float32] | None:
        """Return the distances [N]; None where the model does not know them."""
        return self.outputs[:, -1] if self.outputs.shape[1] > self.num_classes else None


@dataclass(frozen=True)
class _Form:
    """A change at a strength, and which views of an image show it."""

    change: str
    level: float
    text: str
    views: slice


def predict_changed(
    model: Classifier, images: Sequence[tuple[Path, int]], *, batch_size: int, workers: int, observer: Observer
) -> Predictions:
    """Predict every image unchanged and in every changed form.

    Args:
        images: files with the index of their class.
    """
    forms = _forms()
    views_per_image, classes = forms[-1].views.stop, len(model.classes)

    def job_of(image: tuple[Path, int]) -> Job:
        return ChangedForms(image[0], model.preprocessing, views_per_image)

    unchanged: list[Outputs] = []
    answers: list[NDArray[np.int64]] = []
    labels: list[int] = []
    unreadable: dict[Path, str] = {}
    with observer.task("evaluating changed images", len(images) * views_per_image, "views"):
        options = {"batch_size": _IMAGES_AT_ONCE, "workers": workers, "images": len(images) * views_per_image}
        for batch in decoded_batches(images, job_of, **options):
            unreadable |= {path: error.reason for (path, _), error in batch.failures}
            labels += [label for _, label in batch.items]
            for outputs_VE in _outputs(model, batch.pixels, batch_size) if batch.items else ():
                unchanged.append(outputs_VE[:1])
                answers.append(outputs_VE[:, :classes].argmax(1))
            observer.advance((len(batch.items) + len(batch.failures)) * views_per_image)
    rows = _rows(forms, np.array(answers), np.array(labels)) if answers else ()
    return Predictions(stacked(unchanged, classes), classes, unreadable, rows)


def stacked(blocks: Sequence[Outputs], classes: int) -> Outputs:
    """Return the outputs of N images from blocks of rows, of which there may be none."""
    return np.concatenate(blocks) if blocks else np.empty((0, classes), np.float32)


def _outputs(model: Classifier, pixels: Pixels, batch_size: int) -> Outputs:
    """Return the outputs [N, V, E] of pixels [N, V, H, W, 3].

    On a CPU the batches hold views of one image, so that its outputs do not depend on other images to the last bit. The
    views of one image do not fill a GPU.
    """
    images, views = pixels.shape[:2]
    together = images if model.engine is not None and model.engine.is_asynchronous else 1
    outputs = []
    for first in range(0, images, together):
        flat = pixels[first : first + together].reshape(-1, *pixels.shape[2:])
        blocks = [flat[start : start + batch_size] for start in range(0, len(flat), batch_size)]
        outputs += [model.outputs(block) for block in blocks]
    return np.concatenate(outputs).reshape(images, views, -1)


def _forms() -> list[_Form]:
    """Return each change and strength with its views, counted on a tiny image."""
    forms = [_Form("none", 0.0, "", slice(0, 1))]
    image, view = Image.new("RGB", (8, 8)), View(8, 8, 1, 1)
    for name, change in PERTURBATIONS.items():
        for level in change.levels:
            start = forms[-1].views.stop
            count = len(change.views(image, view, level))
            forms.append(_Form(name, level, change.unit.format(level), slice(start, start + count)))
    return forms


def _rows(
    forms: Sequence[_Form], answers_NV: NDArray[np.int64], labels_N: NDArray[np.int64]
) -> tuple[RobustnessRow, ...]:
    unchanged_N1, labels_N1 = answers_NV[:, :1], labels_N[:, None]
    return tuple(
        RobustnessRow(
            change=form.change,
            level=form.level,
            text=form.text,
            accuracy=float((answers_NV[:, form.views] == labels_N1).mean()),
            agreement=float((answers_NV[:, form.views] == unchanged_N1).mean()),
            views=answers_NV[:, form.views].size,
        )
        for form in forms
    )

"""The images to explain, read one by one, each with the model's prediction."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import certainty
from cnn_tl.core.progress import Observer
from cnn_tl.core.statistics import softmax
from cnn_tl.data.loader import Pixels, batches
from cnn_tl.data.views import transforms
from cnn_tl.explaining.answering import AnsweringModel
from cnn_tl.explaining.options import SHEET, ExplainJob, file_stems
from cnn_tl.explaining.report import Prediction, Row, UnreadableRow
from cnn_tl.plots.explanation import Curves, Drawing


@dataclass(frozen=True)
class Explanation:
    """An explanation that is ready to be written.

    Attributes:
        row: its row in the report.
        stem: the file name of its PNG without suffix.
        drawing: what the PNG shows; None for an image that could not be read.
    """

    row: Row
    stem: str
    drawing: Drawing | None


@dataclass(frozen=True)
class PredictedImage:
    """An image and its prediction.

    Attributes:
        stem: as in `Explanation`.
        pixels: the preprocessed image, uint8 [H, W, 3].
    """

    prediction: Prediction
    stem: str
    pixels: Pixels

    def drawn(self, lines: tuple[str, ...], panel: Pixels, caption: str, curves: Curves | None = None) -> Drawing:
        """Return the image with `panel` beside it, under its prediction and `lines`."""
        found = self.prediction
        verdict = ""
        if found.true is not None:
            verdict = ", right" if found.true == found.label else f", wrong (true class {printable(found.true)})"
        name = printable(Path(found.file).name)
        return Drawing(
            lines=(f"{name}: {printable(found.label)} {certainty(found.probability)}{verdict}", *lines),
            panels=(self.pixels, panel),
            captions=("what the network sees", caption),
            curves=curves,
        )


def predict_images(
    model: AnsweringModel, job: ExplainJob, observer: Observer
) -> Iterator[PredictedImage | Explanation]:
    """Yield each image with its prediction; for an unreadable image, the explanation that says why."""
    stems = file_stems(job.images, SHEET)
    with observer.task(job.method.name, len(stems)):
        for batch in batches(enumerate(job.images), partial(read, model), batch_size=1, workers=job.workers):
            for (number, path), error in batch.failures:
                yield Explanation(UnreadableRow(str(path), error.reason), stems[number], None)
            for (number, path), pixels in zip(batch.items, batch.pixels, strict=True):
                yield PredictedImage(_predict(model, path, pixels), stems[number], pixels)
            observer.advance(1)


def true_class(path: Path, classes: Sequence[str]) -> str | None:
    """Return the class after which the image's folder is named, as in a training folder; None if there is none."""
    folder = unicodedata.normalize("NFC", path.absolute().parent.name)
    return next((name for name in classes if unicodedata.normalize("NFC", name) == folder), None)


def read(model: AnsweringModel, numbered: tuple[int, Path]) -> Pixels:
    """Return the preprocessed image, uint8 [H, W, 3]; its number comes along."""
    return transforms.read_pixels(numbered[1], model.preprocessing)


def _predict(model: AnsweringModel, path: Path, pixels: Pixels) -> Prediction:
    [probability_K] = softmax(model.predicted(model.to_input(pixels)))
    best = int(np.argmax(probability_K))
    true = true_class(path, model.classes)
    return Prediction(str(path), true, model.classes[best], round(float(probability_K[best]), 6))

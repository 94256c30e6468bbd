"""Each image as a model sees it, with its answer, and what is said of it in the end."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import certainty
from cnn_tl.core.progress import Observer
from cnn_tl.data.loader import Pixels, batches
from cnn_tl.data.views import transforms
from cnn_tl.explaining.model import Subject
from cnn_tl.explaining.options import SHEET, Request, stems
from cnn_tl.plots.explanation import Curves, Drawing


@dataclass(frozen=True)
class Explanation:
    """One image that was written, or why it was not.

    Attributes:
        row: what there is to say about it, for JSON.
        stem: the name of its PNG without extension.
        drawing: what the PNG shows; None if the image could not be read.
    """

    row: dict[str, Any]
    stem: str
    drawing: Drawing | None


@dataclass(frozen=True)
class Seen:
    """An image that could be read.

    Attributes:
        file: as it was named. stem: see `Explanation`.
        pixels: what the network sees, uint8 [H, W, 3]. x_1CHW: the same as the network takes it.
        answer: the predicted class (`label`) and its probability.
        true: the class that the image's folder is named after; None if it bears no class's name.
    """

    file: str
    stem: str
    pixels: Pixels
    x_1CHW: Tensor  # noqa: N815 - the shape is part of the name
    answer: dict[str, Any]
    true: str | None

    def explained(
        self,
        facts: dict[str, Any],
        *,
        lines: tuple[str, ...],
        panel: Pixels,
        caption: str,
        curves: Curves | None = None,
    ) -> Explanation:
        """Return the explanation: the image with `panel` beside it, under its answer and `lines`."""
        name, label, share = printable(Path(self.file).name), self.answer["label"], self.answer["probability"]
        verdict = ""
        if self.true is not None:
            verdict = ", right" if self.true == label else f", wrong (true class {printable(self.true)})"
        drawing = Drawing(
            lines=(f"{name}: {printable(label)} {certainty(share)}{verdict}", *lines),
            panels=(self.pixels, panel),
            captions=("what the network sees", caption),
            curves=curves,
        )
        row = {"file": self.file, "error": None, "true": self.true}
        return Explanation(row | self.answer | facts, self.stem, drawing)


def look(subject: Subject, request: Request, observer: Observer) -> Iterator[Seen | Explanation]:
    """Yield each image with its answer; for one that cannot be read all that there is to say, which is why."""
    names = stems(request.images, SHEET)
    with observer.task(request.method, len(names)):
        for batch in batches(enumerate(request.images), partial(read, subject), batch_size=1, workers=request.workers):
            for (number, path), error in batch.failures:
                yield Explanation({"file": str(path), "error": error.reason}, names[number], None)
            for (number, path), pixels in zip(batch.items, batch.pixels, strict=True):
                x_1CHW = subject.to_input(pixels)
                true = true_class(path, subject.classes)
                yield Seen(str(path), names[number], pixels, x_1CHW, _answer(subject, x_1CHW), true)
            observer.advance(1)


def true_class(path: Path, classes: Sequence[str]) -> str | None:
    """Return the class that an image's folder is named after, as in a training folder; None if there is none."""
    folder = unicodedata.normalize("NFC", path.absolute().parent.name)
    return next((name for name in classes if unicodedata.normalize("NFC", name) == folder), None)


def read(subject: Subject, numbered: tuple[int, Path]) -> Pixels:
    """Return what the network sees of an image, uint8 [H, W, 3]; its number is carried along."""
    return transforms.read_pixels(numbered[1], subject.preprocessing)


def _answer(subject: Subject, x_1CHW: Tensor) -> dict[str, Any]:
    """Return the predicted class of one image and its probability."""
    probability_K = subject.logits(x_1CHW)[0].double().softmax(dim=0).cpu().numpy()
    best = int(np.argmax(probability_K))
    return {"label": subject.classes[best], "probability": round(float(probability_K[best]), 6)}

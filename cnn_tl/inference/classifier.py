"""A trained model that predicts: images in, answers out, whatever computes the logits."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn_tl.abstention.rule import Rule, Verdict
from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import ArtefactError, UsageError, printable
from cnn_tl.core.formatting import certainty, check_shares
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.progress import Observer
from cnn_tl.core.statistics import softmax
from cnn_tl.data.data_warnings import blank_image_remarks
from cnn_tl.data.loader import Batch, Pixels, as_they_come
from cnn_tl.data.reading.ahead import decoded_batches
from cnn_tl.data.reading.jobs import ImageFile, Job, PlainPixels
from cnn_tl.inference.images_in_memory import ImageInMemory, Images, find_images

if TYPE_CHECKING:
    from cnn_tl.abstention.thresholds import Thresholds
    from cnn_tl.features.engine import Engine
    from cnn_tl.features.headed_engine import HeadedEngine
    from cnn_tl.features.loading_engine import LoadingEngine

Item = TypeVar("Item")
Logits = NDArray[np.float32]
Outputs = NDArray[np.float32]
"""Logits [N, K], and in a last column the distances where the model knows them."""

BATCH_SIZE = 32
"""Images that go through the model together, except on CUDA."""


@dataclass(frozen=True)
class Answer:
    """The prediction for one image.

    Attributes:
        file: the image as it was named; print it through `errors.printable`.
        label: the most probable class; None if the image could not be read, or if the answer is withheld.
        probability: that of the most probable class, 0..1; None if the image could not be read.
        top: the most probable classes and their probabilities, best first; also of an answer that is withheld.
        error: why the image could not be read; None if it could.
        verdict: answered, unsure or unknown; None if the image could not be read, or if the model cannot judge it.
        set: the smallest set of classes that holds the truth 95% of the time, the most probable first; None if the
            model does not know it.
        distance: how far the image lies from what training showed; 1% of images like the training ones lie further
            away than 1. None if the model does not know it.
    """

    file: str
    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...]
    error: str | None
    verdict: Verdict | None = None
    set: tuple[str, ...] | None = None
    distance: float | None = None

    def __repr__(self) -> str:
        """Return such as `<Answer cat.jpg: cat 98.1%, dog 1.9%>`."""
        ranked = ", ".join(f"{label} {certainty(share)}" for label, share in self.top)
        remark = f" ({self.verdict})" if self.verdict in ("unsure", "unknown") else ""
        return printable(f"<Answer {self.file}: {ranked or self.error}{remark}>")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, probabilities rounded to six digits."""
        return {
            "file": self.file,
            "label": self.label,
            "probability": None if self.probability is None else round(self.probability, 6),
            "top": [{"label": label, "probability": round(share, 6)} for label, share in self.top],
            "verdict": self.verdict,
            "set": None if self.set is None else list(self.set),
            "distance": None if self.distance is None else round(self.distance, 4),
            "error": self.error,
        }


class Answers(Iterator[Answer]):
    """An iterator with one answer for each image; an image is read and predicted when its answer is asked for."""

    def __init__(self, answers: Iterator[Answer]) -> None:
        self._answers = answers

    def __next__(self) -> Answer:
        """Return the next answer."""
        return next(self._answers)

    def close(self) -> None:
        """Stop predicting, and end the threads and processes that read images."""
        if isinstance(self._answers, Generator):
            self._answers.close()

    def __repr__(self) -> str:
        """Say how to get the answers."""
        return "<Answers, predicted when asked for: list(...) returns all of them>"


@dataclass(frozen=True)
class Classifier:
    """A trained model, ready to predict: `model.predict("cat.jpg")`.

    Attributes:
        classes: the class names, in the order of the logits.
        preprocessing: how an image becomes the input of the network.
        outputs: the model itself, from pixels uint8 [N, H, W, 3] to its logits float32 [N, K], or [N, K + 1] where
            the last column is the distance from what training showed.
        majority_class: the most frequent class of the training split; None where the model does not say.
        engine: what computes the outputs; None for a .onnx file.
        batch_size: images that go through the model together by default: on CUDA as many as fill it.
        thresholds: what held-out images say about confidence and distance; None where the model does not say.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    outputs: Callable[[Pixels], Outputs]
    majority_class: str | None = None
    engine: Engine | LoadingEngine | HeadedEngine | None = None
    batch_size: int = BATCH_SIZE
    thresholds: Thresholds | None = None

    def __repr__(self) -> str:
        """Return such as `<Classifier of 3 classes: pizza, steak, sushi; 224 x 224 px>`."""
        few = ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
        spec = self.preprocessing
        return printable(f"<Classifier of {len(self.classes)} classes: {few}; {spec.height} x {spec.width} px>")

    def logits(self, pixels: Pixels) -> Logits:
        """Return the logits, float32 [N, K], of pixels uint8 [N, H, W, 3]."""
        return self.outputs(pixels)[:, : len(self.classes)]

    def rule(self, max_error: float | None = None, unknown: float | None = None) -> Rule:
        """Return the rule by which images are judged.

        Without arguments 1% of the images like the training ones may be called unknown, and no answer is withheld.

        Args:
            max_error: withhold answers that are less sure than it takes for at most this share of wrong ones.
            unknown: withhold the answers for images that lie outside what training showed, so that of the images like
                the training ones at most about this share is withheld.

        Raises:
            UsageError: the model does not know enough for this, or a share is not between 0 and 1.
        """
        check_shares(max_error=max_error, unknown=unknown)
        if self.thresholds is None:
            if max_error is None and unknown is None:
                return Rule()
            option = "--max-error" if unknown is None else "--unknown"
            raise UsageError(f"{option}: the model keeps no held-out answers; train it again with this version")
        return self.thresholds.rule(max_error, unknown)

    def stream(self, batches: Iterable[Batch[Item]]) -> Iterator[tuple[Batch[Item], Outputs]]:
        """Yield each batch with its outputs [N, K] or [N, K + 1], in order; on CUDA the model then works on the next.

        Raises:
            ArtefactError: an output is not finite.
        """
        source = iter(batches)
        first = list(islice(source, 1))  # reading begins here, while the model may still be loading
        if self.engine is not None and self.engine.is_asynchronous:
            from cnn_tl.features.stream import stream

            predicted = stream(self.engine, chain(first, source))
            yield from ((batch, finite(outputs_NE)) for batch, outputs_NE in predicted)
            return
        for batch in chain(first, source):
            yield batch, self._outputs_of(batch)

    def predict(
        self,
        images: Images,
        *,
        top: int = 1,
        batch_size: int | None = None,
        workers: int | None = None,
        recursive: bool = True,
        max_error: float | None = None,
        unknown: float | None = None,
        observer: Observer | None = None,
    ) -> Answers:
        """Predict images one by one; the answers come in the given order, while later images are still being read.

            for answer in model.predict(["cat.jpg", "photos/", array]):
                print(answer.file, answer.label, answer.probability)

        Args:
            images: one or many of: a file, a folder, a pattern such as "photos/*.jpg", a PIL image, a numpy array of
                uint8, RGB, [H, W, 3], or the bytes of a file.
            top: how many classes each answer lists, at most all of them.
            batch_size: images that go through the model at once; None: `self.batch_size`.
            workers: threads or processes that read images; 0: the calling thread; None: one per core.
            recursive: search folders inside folders too.
            max_error, unknown: which answers are withheld, see `rule`.
            observer: receives progress events, and at the end warnings about blank images.

        Raises:
            DataError: a folder or a pattern holds no image.
            UsageError: something is not an image, such as an array of floats; see also `rule`.
        """
        rule = self.rule(max_error, unknown)
        found = list(find_images(images, recursive=recursive))
        return Answers(self.answers(
            found, total=len(found), top=top, batch_size=batch_size, workers=workers, rule=rule, observer=observer
        ))  # fmt: skip

    def answers(
        self,
        files: Iterable[Path | ImageInMemory],
        *,
        total: int | None = None,
        live: bool = False,
        top: int = 1,
        batch_size: int | None = None,
        workers: int | None = None,
        rule: Rule | None = None,
        observer: Observer | None = None,
    ) -> Iterator[Answer]:
        """Yield one answer for each image, as `predict` does, but without expanding folders and patterns.

        Args:
            files: the images; only as many as are read ahead are taken from it.
            total: how many images there are, if that is known.
            live: the images are still arriving, as from a pipe: predict what has arrived, in smaller batches.
            rule: judges the images; None: the default of `rule`.
            top, batch_size, workers, observer: as in `predict`.
        """
        observer, judge = observer or Observer(), rule or self.rule()
        at_once, size = default_workers() if workers is None else workers, batch_size or self.batch_size
        numbered = enumerate(files)
        predicted: Iterator[tuple[Batch[tuple[int, Path | ImageInMemory]], Outputs]]
        if live:
            read = as_they_come(numbered, lambda one: self._job(one).run(), batch_size=size, workers=at_once)
            # a batch that has arrived is not kept until the next one arrives
            predicted = ((batch, self._outputs_of(batch)) for batch in read)
        else:
            count = _count_of_files(files)
            read = decoded_batches(numbered, self._job, batch_size=size, workers=at_once, images=count)
            predicted = self.stream(read)
        blank: dict[str, str] = {}
        with observer.task("predicting", total):
            for batch, outputs_NE in predicted:
                blank |= {str(image): kind for (_, image), kind in batch.blank}
                yield from self._answers(batch, outputs_NE, top, judge)
                observer.advance(len(batch.items) + len(batch.failures))
        for text in blank_image_remarks(blank.items()):
            observer.warn(text)

    def answer(self, name: str, outputs_E: Outputs, top: int, rule: Rule) -> Answer:
        """Return the answer for the outputs [K] or [K + 1] of one image."""
        probabilities_K = softmax(outputs_E[None, : len(self.classes)])[0]
        distance = float(outputs_E[-1]) if len(outputs_E) > len(self.classes) else None
        judged = rule.judge(probabilities_K, distance)
        best = np.argsort(-probabilities_K, kind="stable")[:top]
        ranked = tuple((self.classes[k], float(probabilities_K[k])) for k in best)
        withheld = rule.withholds and judged.verdict != "answered"
        members = None if judged.members is None else tuple(self.classes[k] for k in judged.members)
        label, probability = ranked[0]
        verdict = None if self.thresholds is None else judged.verdict
        return Answer(name, None if withheld else label, probability, ranked, None, verdict, members, distance)

    def _job(self, numbered: tuple[int, Path | ImageInMemory]) -> Job:
        image, spec = numbered[1], self.preprocessing
        return image.job(spec) if isinstance(image, ImageInMemory) else PlainPixels(ImageFile(image), spec)

    def _outputs_of(self, batch: Batch[Any]) -> Outputs:
        return finite(self.outputs(batch.pixels)) if batch.items else np.empty((0, 0), np.float32)

    def _answers(
        self, batch: Batch[tuple[int, Path | ImageInMemory]], outputs_NE: Outputs, top: int, rule: Rule
    ) -> list[Answer]:
        """Return the answers for a batch, unreadable images included, in the order of their numbers."""
        found = {number: Answer(str(path), None, None, (), error.reason) for (number, path), error in batch.failures}
        if batch.items:
            for (number, path), outputs_E in zip(batch.items, outputs_NE, strict=True):
                found[number] = self.answer(str(path), outputs_E, top, rule)
        return [found[number] for number in sorted(found)]


def _count_of_files(images: Iterable[Path | ImageInMemory]) -> int:
    """Return how many images may be read by processes: images in memory are not sent to one."""
    return len(images) if isinstance(images, list) and all(isinstance(image, Path) for image in images) else 0


def finite(outputs_NE: Outputs) -> Outputs:
    """Return the outputs.

    Raises:
        ArtefactError: one of them is not finite.
    """
    if not np.isfinite(outputs_NE).all():
        raise ArtefactError("the model's logits are not finite: its weights are damaged, or overflow in its precision")
    return outputs_NE

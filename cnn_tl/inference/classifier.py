"""A trained model that predicts: a run folder or a bundle runs in torch, a .onnx file in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.device import (
    DeviceName,
    begin_loading,
    fp32_switches_restored,
    inference_precision,
    pick_device,
    will_be_cuda,
)
from cnn_tl.core.errors import ArtefactError, UsageError, printable
from cnn_tl.core.files import CHECKSUMS, sha256_file
from cnn_tl.core.formatting import certainty
from cnn_tl.core.imports import require_torch
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.progress import Observer
from cnn_tl.core.statistics import softmax
from cnn_tl.data.data_warnings import blank_image_remarks
from cnn_tl.data.loader import Batch, Pixels, as_they_come
from cnn_tl.data.reading.ahead import decoded_batches
from cnn_tl.data.reading.jobs import ImageFile, Job, PlainPixels
from cnn_tl.data.views import transforms
from cnn_tl.features.loading_engine import LoadingEngine
from cnn_tl.inference.images_in_memory import ImageInMemory, Images, find_images
from cnn_tl.networks import bundle

if TYPE_CHECKING:
    from cnn_tl.features.engine import Engine

Item = TypeVar("Item")
Logits = NDArray[np.float32]

BATCH_SIZE = 32
"""Images that go through the model together, except on CUDA."""


@dataclass(frozen=True)
class Answer:
    """The prediction for one image.

    Attributes:
        file: the image as it was named; print it through `errors.printable`.
        label: the most probable class; None if the image could not be read.
        probability: its probability, 0..1.
        top: the most probable classes and their probabilities, best first.
        error: why the image could not be read; None if it could.
    """

    file: str
    label: str | None
    probability: float | None
    top: tuple[tuple[str, float], ...]
    error: str | None

    def __repr__(self) -> str:
        """Return such as `<Answer cat.jpg: cat 98.1%, dog 1.9%>`."""
        ranked = ", ".join(f"{label} {certainty(share)}" for label, share in self.top)
        return printable(f"<Answer {self.file}: {ranked or self.error}>")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, probabilities rounded to six digits."""
        return {
            "file": self.file,
            "label": self.label,
            "probability": None if self.probability is None else round(self.probability, 6),
            "top": [{"label": label, "probability": round(share, 6)} for label, share in self.top],
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
        logits: the model itself, from pixels uint8 [N, H, W, 3] to logits float32 [N, K].
        majority_class: the most frequent class of the training split; None where the model does not say.
        engine: what computes the logits; None for a .onnx file.
        batch_size: images that go through the model together by default: on CUDA as many as fill it.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    logits: Callable[[Pixels], Logits]
    majority_class: str | None = None
    engine: Engine | LoadingEngine | None = None
    batch_size: int = BATCH_SIZE

    def __repr__(self) -> str:
        """Return such as `<Classifier of 3 classes: pizza, steak, sushi; 224 x 224 px>`."""
        few = ", ".join(self.classes[:5]) + (", ..." if len(self.classes) > 5 else "")
        spec = self.preprocessing
        return printable(f"<Classifier of {len(self.classes)} classes: {few}; {spec.height} x {spec.width} px>")

    def stream(self, batches: Iterable[Batch[Item]]) -> Iterator[tuple[Batch[Item], Logits]]:
        """Yield each batch with its logits [N, K], in order; on CUDA the model then works on the next one already.

        Raises:
            ArtefactError: a logit is not finite.
        """
        source = iter(batches)
        first = list(islice(source, 1))  # reading begins here, while the model may still be loading
        if self.engine is not None and self.engine.is_asynchronous:
            from cnn_tl.features.stream import stream

            predicted = stream(self.engine, chain(first, source))
            yield from ((batch, finite(logits_NK)) for batch, logits_NK in predicted)
            return
        for batch in chain(first, source):
            yield batch, self._logits_of(batch)

    def predict(
        self,
        images: Images,
        *,
        top: int = 1,
        batch_size: int | None = None,
        workers: int | None = None,
        recursive: bool = True,
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
            observer: receives progress events, and at the end warnings about blank images.

        Raises:
            DataError: a folder or a pattern holds no image.
            UsageError: something is not an image, such as an array of floats.
        """
        found = list(find_images(images, recursive=recursive))
        return Answers(self.answers(
            found, total=len(found), top=top, batch_size=batch_size, workers=workers, observer=observer
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
        observer: Observer | None = None,
    ) -> Iterator[Answer]:
        """Yield one answer for each image, as `predict` does, but without expanding folders and patterns.

        Args:
            files: the images; only as many as are read ahead are taken from it.
            total: how many images there are, if that is known.
            live: the images are still arriving, as from a pipe: predict what has arrived, in smaller batches.
            top, batch_size, workers, observer: as in `predict`.
        """
        observer = observer or Observer()
        at_once, size = default_workers() if workers is None else workers, batch_size or self.batch_size
        numbered = enumerate(files)
        predicted: Iterator[tuple[Batch[tuple[int, Path | ImageInMemory]], Logits]]
        if live:
            read = as_they_come(numbered, lambda one: self._job(one).run(), batch_size=size, workers=at_once)
            # a batch that has arrived is not kept until the next one arrives
            predicted = ((batch, self._logits_of(batch)) for batch in read)
        else:
            count = _count_of_files(files)
            read = decoded_batches(numbered, self._job, batch_size=size, workers=at_once, images=count)
            predicted = self.stream(read)
        blank: dict[str, str] = {}
        with observer.task("predicting", total):
            for batch, logits_NK in predicted:
                blank |= {str(image): kind for (_, image), kind in batch.blank}
                yield from self._answers(batch, logits_NK, top)
                observer.advance(len(batch.items) + len(batch.failures))
        for text in blank_image_remarks(blank.items()):
            observer.warn(text)

    def answer(self, name: str, probabilities_K: NDArray[np.floating[Any]], top: int) -> Answer:
        """Return the answer for the probabilities [K] of one image."""
        best = np.argsort(-probabilities_K, kind="stable")[:top]
        ranked = tuple((self.classes[k], float(probabilities_K[k])) for k in best)
        return Answer(name, *ranked[0], ranked, None)

    def _job(self, numbered: tuple[int, Path | ImageInMemory]) -> Job:
        image, spec = numbered[1], self.preprocessing
        return image.job(spec) if isinstance(image, ImageInMemory) else PlainPixels(ImageFile(image), spec)

    def _logits_of(self, batch: Batch[Any]) -> Logits:
        return finite(self.logits(batch.pixels)) if batch.items else np.empty((0, 0), np.float32)

    def _answers(self, batch: Batch[tuple[int, Path | ImageInMemory]], logits_NK: Logits, top: int) -> list[Answer]:
        """Return the answers for a batch, unreadable images included, in the order of their numbers."""
        found = {number: Answer(str(path), None, None, (), error.reason) for (number, path), error in batch.failures}
        if batch.items:
            for (number, path), row in zip(batch.items, softmax(logits_NK), strict=True):
                found[number] = self.answer(str(path), row, top)
        return [found[number] for number in sorted(found)]


def _count_of_files(images: Iterable[Path | ImageInMemory]) -> int:
    """Return how many images may be read by processes: images in memory are not sent to one."""
    return len(images) if isinstance(images, list) and all(isinstance(image, Path) for image in images) else 0


def finite(logits_NK: Logits) -> Logits:
    """Return the logits.

    Raises:
        ArtefactError: one of them is not finite.
    """
    if not np.isfinite(logits_NK).all():
        raise ArtefactError("the model's logits are not finite: its weights are damaged, or overflow in its precision")
    return logits_NK


def load(
    source: str | Path,
    device: DeviceName = "auto",
    *,
    many: bool = False,
    in_background: bool = False,
    batch_size: int | None = None,
) -> Classifier:
    """Load a run folder, a bundle or a .onnx file; only the first two need torch.

    On CUDA the model runs in bf16 where the hardware multiplies it, unless it was trained with `run.precision: fp32`
    or by an earlier version of cnn-tl; elsewhere in float32. Its last layer always computes in float32.

    Args:
        source: a run folder, a bundle or a .onnx file.
        device: where the model runs.
        many: optimise for many images instead of for a quick first answer; see `OnnxModel.open`.
        in_background: return before the network is loaded, where that is possible, so that images can be read
            meanwhile. Most of the errors below are then raised by the first prediction.
        batch_size: of these predictions, if it is known; None: as many as suit the device.

    Raises:
        ArtefactError: there is no model, or it is damaged, not written by cnn-tl, or newer than this version.
        ResourceError: the device is not available.
        UsageError: a .onnx file was to run on another device than the CPU.
    """
    path = Path(source)
    return _from_onnx(path, device, many) if is_onnx(path) else _from_bundle(path, device, in_background, batch_size)


def digest(source: str | Path) -> str:
    """Return a SHA-256 that identifies the model, over everything that `load` would read.

    Raises:
        ArtefactError: there is no model.
    """
    path = Path(source)
    if not is_onnx(path):
        path = bundle.find(path) / CHECKSUMS  # holds the digests of all other files
    try:
        return sha256_file(path)
    except OSError as error:
        raise ArtefactError(f"{printable(path)} cannot be read: {error.strerror}") from error


def is_onnx(path: Path) -> bool:
    """Say whether a path names an ONNX file, by its suffix; the file need not exist."""
    return path.suffix.lower() == ".onnx" and not path.is_dir()


def _from_bundle(path: Path, device: DeviceName, in_background: bool, batch_size: int | None) -> Classifier:
    from cnn_tl.features.cuda_batch_size import cuda_batch_size

    folder = bundle.find(path)  # a wrong path fails before the seconds that importing torch takes
    on_cuda = will_be_cuda(device)
    if on_cuda:
        begin_loading(device)
    if in_background and on_cuda is not None:
        with suppress(ArtefactError):  # loading says what is wrong, after a look at the checksums
            about = bundle.describe(folder)
            size = batch_size or (cuda_batch_size(about.preprocessing) if on_cuda else BATCH_SIZE)
            engine = LoadingEngine(lambda: _warm(_load(folder, device)[1], size, batch_size))
            return _classifier(about, engine, size)
    about, loaded = _load(folder, device)
    return _classifier(about, loaded, cuda_batch_size(about.preprocessing) if loaded.is_asynchronous else BATCH_SIZE)


def _classifier(about: bundle.Description, engine: Engine | LoadingEngine, batch_size: int) -> Classifier:
    return Classifier(about.classes, about.preprocessing, engine.outputs, about.majority_class, engine, batch_size)


def _warm(engine: Engine, size: int, wanted: int | None) -> Engine:
    """Return the engine, ready for batches of `size` images; elsewhere than on CUDA only if these are `wanted`."""
    engine.warm_up(size)
    if not engine.is_asynchronous and wanted is None:
        engine.at_once = BATCH_SIZE  # a GPU was expected, and there is none
    return engine


def _load(folder: Path, device: DeviceName) -> tuple[bundle.Description, Engine]:
    require_torch()
    from cnn_tl.features.engine import Engine
    from cnn_tl.networks.backbone import keep_classifier_in_fp32, place

    chosen = pick_device(device)
    trained = bundle.load(folder)
    precision = inference_precision(chosen, trained.precision)
    with fp32_switches_restored():
        model = place(trained.model, chosen)
    if precision == "bf16":
        keep_classifier_in_fp32(model)
    return trained, Engine(model, trained.preprocessing, chosen, precision)


def _from_onnx(path: Path, device: DeviceName, many: bool) -> Classifier:
    if device not in ("auto", "cpu"):
        raise UsageError(f"{printable(path)} runs on the CPU; for --device {device} name the run folder")
    from cnn_tl.networks.onnx_model import OnnxModel

    model = OnnxModel.open(path, many=many)

    def logits(pixels: Pixels) -> Logits:
        return model(pixels if model.inside else transforms.normalise(pixels, model.preprocessing))

    return Classifier(tuple(model.classes), model.preprocessing, logits, model.facts.get("majority_class"))

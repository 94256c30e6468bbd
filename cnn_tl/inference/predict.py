"""Images in, answers out: the library's side of `cnn-tl predict`."""

from __future__ import annotations

from pathlib import Path

from cnn_tl.core.device import DeviceName
from cnn_tl.core.progress import Observer
from cnn_tl.inference.classifier import Answers, load
from cnn_tl.inference.images_in_memory import Images, find_all


def predict(
    source: str | Path,
    images: Images,
    *,
    top: int = 1,
    batch_size: int = 32,
    workers: int | None = None,
    device: DeviceName = "auto",
    recursive: bool = True,
    observer: Observer | None = None,
) -> Answers:
    """Load the model of a run folder, a bundle or a .onnx file, and let it answer for each image in turn.

    The call itself finds the images and loads the model; the work is done as the answers are taken. See
    `load` and `Classifier.predict` for the arguments and for what they raise.
    """
    files = list(find_all(images, recursive=recursive))
    model = load(source, device, many=len(files) >= batch_size)
    return model.predict(files, top=top, batch_size=batch_size, workers=workers, observer=observer)

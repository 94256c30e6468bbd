"""Using a trained model: `cnn_tl.load`, `cnn_tl.predict` and `cnn_tl.export`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cnn_tl.api.keywords import PathLike, check_values, path_text
from cnn_tl.api.messages import with_keywords
from cnn_tl.api.observers import choose_observer, quiet_dependencies
from cnn_tl.core.formatting import check_shares
from cnn_tl.core.imports import require_working_directory
from cnn_tl.core.progress import Observer

if TYPE_CHECKING:
    from cnn_tl.core.device import DeviceName
    from cnn_tl.exporting.export import ExportReport
    from cnn_tl.exporting.options import Options, Output, Precision, Preprocess
    from cnn_tl.inference.classifier import Answer, Classifier
    from cnn_tl.inference.images_in_memory import Images

MODEL = "the path of a model, or the result of train"
"""What `source` may be, as an error message says it."""


@with_keywords
def load(source: PathLike, device: DeviceName = "auto", *, many: bool = False) -> Classifier:
    """Load a trained model once, for many calls of its `predict`.

        model = cnn_tl.load("runs/photos-freeze")
        [answer] = model.predict("cat.jpg")

    Args:
        source: a run folder, a bundle, a .onnx file, or the result of `train`. On a CPU a bundle with graph.onnx, a
            bundle of a default backbone, and a .onnx file need no torch.
        device: auto, cpu, cuda or mps. The model runs in float32, and in bf16 on a CUDA GPU that
            multiplies it, unless it was trained with `run.precision: fp32`.
        many: optimise a .onnx file for many images instead of for a quick first answer.

    Raises:
        ArtefactError: there is no model, or it is damaged, not written by cnn-tl, or newer than this version.
        ResourceError: the device is not available.
        UsageError: `source` is not a path, or a .onnx file was to run on another device than the CPU.
    """
    require_working_directory()
    from cnn_tl.inference.loading import load as load_classifier

    check_values(device)
    return load_classifier(path_text(source, "source", MODEL), device, many=many)


@with_keywords
def predict(
    source: PathLike,
    images: Images,
    *,
    top: int = 1,
    batch_size: int | None = None,
    workers: int | None = None,
    device: DeviceName = "auto",
    recursive: bool = True,
    max_error: float | None = None,
    unknown: float | None = None,
    quiet: bool = False,
    observer: Observer | None = None,
) -> list[Answer]:
    """Predict the classes of images: paths, folders, PIL images, numpy arrays, or a list of them.

        for answer in cnn_tl.predict("runs/photos-freeze", ["cat.jpg", "more/"], top=3):
            print(answer.file, answer.label, answer.probability, answer.top)

    `cnn_tl.load(source).predict(images)` keeps the model for more calls, and returns the answers one by one.

    Args:
        source: a run folder, a bundle, a .onnx file, or the result of `train`.
        images: one or many of: a file, a folder, a pattern such as "photos/*.jpg", a PIL image, a numpy array of
            uint8, RGB, [H, W, 3] (or [N, H, W, 3] for many), or the bytes of a file. Arrays of floats are refused, as
            they do not say whether white is 1 or 255.
        top: how many classes each answer lists.
        batch_size: images that are handed to the model together; None: 32, and on CUDA up to 256.
        workers: threads or processes that read images; None: one per core.
        device: auto, cpu, cuda or mps.
        recursive: search folders inside folders too.
        max_error: withhold answers that are less sure than it takes for at most this share of wrong ones, 0..1.
        unknown: withhold the answers for images that lie outside what training showed, so that of the images like the
            training ones at most about this share is withheld, 0..1.
        quiet, observer: as in `train`.

    Returns:
        One answer for each image. An unreadable image raises nothing: its answer has the reason in `error`.

    Raises:
        ArtefactError: there is no model, or it is damaged.
        DataError: a folder or a pattern holds no image.
        UsageError: something is not an image, or a keyword has an impossible value; or the promise of `max_error`
            cannot be given.
    """
    require_working_directory()
    from cnn_tl.core.cpu import default_workers
    from cnn_tl.data.reading.ahead import by_processes
    from cnn_tl.inference.images_in_memory import find_images
    from cnn_tl.inference.loading import load as load_classifier

    check_values(device, top=top, batch_size=batch_size, workers=workers)
    check_shares(max_error=max_error, unknown=unknown)
    with quiet_dependencies():
        found = list(find_images(images, recursive=recursive))
        path, ahead = (
            path_text(source, "source", MODEL),
            by_processes(default_workers() if workers is None else workers, len(found)),
        )
        many = len(found) >= (batch_size or 32)
        classifier = load_classifier(path, device, many=many, in_background=ahead, batch_size=batch_size)
        progress = choose_observer(observer, quiet)
        return list(classifier.predict(
            found, top=top, batch_size=batch_size, workers=workers, max_error=max_error, unknown=unknown,
            observer=progress,
        ))  # fmt: skip


@with_keywords
def export(
    source: PathLike,
    output: PathLike | None = None,
    *,
    format: str = "onnx",
    precision: Precision = "fp32",
    preprocess: Preprocess | None = None,
    outputs: Sequence[Output] | None = None,
    max_drop: float | None = None,
    min_agreement: float | None = None,
    quiet: bool = False,
    observer: Observer | None = None,
    options: Options | None = None,
) -> ExportReport:
    """Export a trained model, and compare it with the original on the validation images.

        report = cnn_tl.export("runs/photos-freeze")
        print(report.path, report.verdict)

    Args:
        source: a run folder, a bundle, or the result of `train`.
        output: the file or folder to write; by default beside the model, such as RUN/model.onnx.
        format: onnx, openvino, timm or torch.
        precision: of the network: fp32, fp16 or int8, which is calibrated on the training images.
        preprocess: inside: the file takes whole images; none: normalised ones. By default inside for onnx.
        outputs: names of what it returns, out of probabilities, logits (always), distance and features.
        max_drop: points of accuracy that fp16 or int8 may cost. min_agreement: the share of images for which they must
            give the answer of fp32. By default both are those of the run's recipe.
        quiet, observer: as in `train`.
        options: the former way to give precision to min_agreement, as one object, which replaces them.

    Raises:
        ArtefactError: there is no model; or the export differs from it, or loses too much. Then no file is left.
        DataError: a precision below fp32 needs images that are not here.
        ResourceError: `output` exists and is not an export, or cannot be written; a package is missing.
        UsageError: the format is unknown, or cannot do what is asked.
    """
    require_working_directory()
    from cnn_tl.exporting.options import Options as ExportOptions

    path = path_text(source, "source", MODEL)
    target = None if output is None else path_text(output, "output")
    asked = None if outputs is None else ExportOptions.check_outputs(outputs)
    chosen = (options or ExportOptions(preprocess, asked, precision, max_drop, min_agreement)).of(format)
    from cnn_tl.exporting.export import export as run_export

    with quiet_dependencies():
        return run_export(path, target, format=format, options=chosen, observer=choose_observer(observer, quiet))

"""What a trained model is good for: `cnn_tl.predict`, `evaluate` and `explain`; and `inspect`, which needs none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_tl.api.keywords import PathLike, path_text, refuse_impossible
from cnn_tl.api.messages import with_keywords
from cnn_tl.api.observers import calm, observer_here
from cnn_tl.core.errors import UsageError
from cnn_tl.core.imports import require_working_directory
from cnn_tl.core.progress import Observer

if TYPE_CHECKING:
    from cnn_tl.anatomy.table import Table
    from cnn_tl.core.device import DeviceName
    from cnn_tl.evaluating.evaluate import Evaluation
    from cnn_tl.explaining.explain import Report
    from cnn_tl.inference.classifier import Answer
    from cnn_tl.inference.images_in_memory import Images

_MODEL = "the path of a model, or the result of train"


@with_keywords
def predict(
    source: PathLike,
    images: Images,
    *,
    top: int = 1,
    batch_size: int = 32,
    workers: int | None = None,
    device: DeviceName = "auto",
    recursive: bool = True,
    quiet: bool = False,
    observer: Observer | None = None,
) -> list[Answer]:
    """Let a trained model answer for images: paths, folders, PIL images, numpy arrays, or a list of them.

        for answer in cnn_tl.predict("runs/photos-freeze", ["cat.jpg", "more/"], top=3):
            print(answer.file, answer.label, answer.probability, answer.top)

    `cnn_tl.load(source).predict(images)` keeps the model for more calls, and gives the answers one after the other.

    Args:
        source: a run folder, a bundle, a .onnx file, or the result of `train`.
        images: one or many of: a file, a folder, a pattern such as "photos/*.jpg", a PIL image, a numpy array of
            uint8, RGB, [H, W, 3] (or [N, H, W, 3] for many), or the bytes of a file. Floats are refused, as they do
            not say whether white is 1 or 255.
        top: how many classes each answer lists.
        batch_size: images that go through the model at once.
        workers: threads that read images; None means one for each core.
        device: auto, cpu, cuda or mps.
        recursive: look into the folders inside folders too.
        quiet, observer: as in `train`.

    Raises:
        ArtefactError: there is no model, or it is damaged.
        DataError: a folder or a pattern holds no image. UsageError: something given is no image, or a value cannot be.
        An image that cannot be read is no error: its answer says why in `error`.
    """
    require_working_directory()
    from cnn_tl.inference.predict import predict as run_predict

    refuse_impossible(device, top=top, batch_size=batch_size, workers=workers)
    with calm():
        return list(
            run_predict(
                path_text(source, "source", _MODEL),
                images,
                top=top,
                batch_size=batch_size,
                workers=workers,
                device=device,
                recursive=recursive,
                observer=observer_here(observer, quiet),
            )
        )


@with_keywords
def evaluate(
    source: PathLike,
    data: PathLike,
    *,
    part: str | None = None,
    robustness: bool = False,
    limit: int | None = None,
    batch_size: int = 32,
    workers: int | None = None,
    device: DeviceName = "auto",
    quiet: bool = False,
    observer: Observer | None = None,
) -> Evaluation:
    """Let a trained model answer for labelled images, and count.

        found = cnn_tl.evaluate("runs/photos-freeze", "photos")
        print(found.accuracy, found.interval, found.confused())

    Args:
        source: a run folder, a bundle, a .onnx file, or the result of `train`.
        data: class folders, or such folders inside train, val and test.
        part: the split that is meant: train, val or test; None: test if there is one, else val. Images that the model
            was trained on are left out where that is known, unless the split train is asked for.
        robustness: also shift, scale, rotate, blur and relight each image.
        limit: at most so many images, of each class its share.
        batch_size, workers, device, quiet, observer: as in `predict`.

    Raises:
        ArtefactError: there is no model, or it is damaged.
        DataError: no images, none that can be read, or classes that the model does not know.
        UsageError: the folder has no such split, or a value cannot be.
    """
    require_working_directory()
    from cnn_tl.evaluating.evaluate import evaluate as run_evaluate

    refuse_impossible(device, limit=limit, batch_size=batch_size, workers=workers)
    with calm():
        return run_evaluate(
            path_text(source, "source", _MODEL),
            path_text(data, "data"),
            part=part,
            robustness=robustness,
            limit=limit,
            batch_size=batch_size,
            workers=workers,
            device=device,
            observer=observer_here(observer, quiet),
        )


@with_keywords
def explain(
    source: PathLike,
    images: PathLike | Sequence[PathLike] = (),
    *,
    method: str = "gradcam",
    output: PathLike | None = None,
    layer: str | None = None,
    label: str | None = None,
    channels: Sequence[int] = (),
    patch: float | None = None,
    stride: float | None = None,
    faithfulness: bool = True,
    limit: int | None = None,
    device: DeviceName = "auto",
    quiet: bool = False,
    observer: Observer | None = None,
) -> Report:
    """Show why a trained model answers as it does: one PNG for each image, and a contact sheet.

        report = cnn_tl.explain("runs/photos-freeze", "photos/val", limit=8)
        print(report.folder, report.rows[0])

    Args:
        source: a run folder, a bundle, or the result of `train`.
        images: files, folders and patterns; for top-patches those that are searched, for filters none.
        method: gradcam, xgradcam, layercam, occlusion, feature-maps, deconv, guided, top-patches or filters.
        output: the folder to write; by default explanations/METHOD.
        layer: its name in the model; by default the last map before the global pool.
        label: the class to explain; by default the predicted one.
        channels: of the layer; by default the strongest.
        patch, stride: of the occlusion, as shares of the image's sides.
        faithfulness: measure deletion and insertion of each heat map; 200 passes an image.
        limit: take at most so many of the images.
        device, quiet, observer: as in `predict`.

    Raises:
        UsageError: a method, layer, class or channel that there is not, or a folder that holds other things.
        ArtefactError: there is no model, or it is damaged. DataError: none of the images can be read.
    """
    require_working_directory()
    from cnn_tl.core.device import default_workers, require_torch, switches_restored
    from cnn_tl.explaining import options as requests
    from cnn_tl.inference.inputs import find
    from cnn_tl.networks import bundle

    if method not in requests.READS:
        raise UsageError(f"there is no method {method!r}; {', '.join(requests.READS)} are there")
    refuse_impossible(device, limit=limit)
    if not isinstance(images, str | os.PathLike | Sequence):
        raise UsageError(f"{type(images).__name__} is no path: explain takes files, folders and patterns")
    run = Path(path_text(source, "source", _MODEL))
    folder = Path("explanations", method) if output is None else Path(path_text(output, "output"))
    requests.check_model(run)
    requests.check_output(folder)
    bundle.find(run)  # a wrong path is refused before the seconds that torch takes
    named = [images] if isinstance(images, str | os.PathLike) else images
    request = requests.Request(
        method=method,
        images=list(find([os.fspath(one) for one in named]))[:limit],
        layer=layer,
        label=label,
        channels=channels,
        patch=patch,
        stride=stride,
        faithfulness=faithfulness,
        workers=default_workers(),
    )
    require_torch()
    from cnn_tl.explaining.explain import explain as run_explain
    from cnn_tl.explaining.model import load

    with calm(), switches_restored():
        return run_explain(load(run, device), request, folder, observer_here(observer, quiet))


@with_keywords
def inspect(
    model: PathLike,
    *,
    mode: str | None = None,
    freeze: str | Sequence[str] | None = None,
    image_size: int | None = None,
    depth: int = 2,
) -> Table:
    """Return the layers of a network: sizes, receptive field, parameters, multiply-adds, memory, and what trains.

        table = cnn_tl.inspect("resnet18")
        for row in table.rows:
            print(row.name, row.output, row.parameters, row.state)

    Nothing is downloaded: the network is run without numbers.

    Args:
        model: any name of timm's, a run folder, a bundle, or the result of `train`.
        mode: what trains in this mode of `train`; by default that of the run, else freeze.
        freeze: what trains: head, last-stage, last-N, norm, all, or a list of names.
        image_size: side of the network's input in pixels.
        depth: how many parts of a name make a row, such as 2 for `layer1.0`; 0 for every single layer.

    Raises:
        UsageError: there is no such model, or it has not what the policy names.
        ArtefactError: the folder holds no whole model.
    """
    require_working_directory()
    from cnn_tl.anatomy.lookup import look_up

    refuse_impossible("auto", image_size=image_size, depth=depth)
    name = path_text(model, "model", f"a name of timm's or {_MODEL}")
    if not isinstance(model, str) and os.sep not in name:
        name = os.path.join(os.curdir, name)  # noqa: PTH118 - a path, not the name of a model; Path drops the dot
    subject, training = look_up(name, mode=mode, freeze=freeze, image_size=image_size)
    from cnn_tl.anatomy import table

    return table.inspect(subject, training, depth)

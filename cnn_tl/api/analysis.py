"""Understanding models and machines: `cnn_tl.evaluate`, `report`, `compare`, `explain`, `inspect` and `benchmark`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_tl.api.keywords import PathLike, check_values, path_text
from cnn_tl.api.messages import with_keywords
from cnn_tl.api.observers import choose_observer, quiet_dependencies
from cnn_tl.api.prediction import MODEL
from cnn_tl.core.errors import UsageError
from cnn_tl.core.formatting import check_shares
from cnn_tl.core.imports import require_working_directory
from cnn_tl.core.progress import Observer

if TYPE_CHECKING:
    from cnn_tl.anatomy.table import Table
    from cnn_tl.core.device import DeviceName
    from cnn_tl.evaluating.benchmark import BenchmarkReport
    from cnn_tl.evaluating.evaluate import Evaluation
    from cnn_tl.explaining.report import ExplainReport
    from cnn_tl.reporting.compare import Comparison
    from cnn_tl.reporting.written import ReportWritten


@with_keywords
def evaluate(
    source: PathLike,
    data: PathLike,
    *,
    split: str | None = None,
    robustness: bool = False,
    limit: int | None = None,
    wrong: PathLike | None = None,
    report: PathLike | None = None,
    answers: PathLike | None = None,
    max_error: float | None = None,
    unknown: float | None = None,
    unknown_images: PathLike | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: DeviceName = "auto",
    quiet: bool = False,
    observer: Observer | None = None,
    part: str | None = None,
) -> Evaluation:
    """Evaluate a trained model on labelled images.

        found = cnn_tl.evaluate("runs/photos-freeze", "photos")
        print(found.accuracy, found.interval, found.confused())

    Args:
        source: a run folder, a bundle, a .onnx file, or the result of `train`.
        data: class folders, or such folders inside train, val and test.
        split: train, val or test; by default test if there is one, else val. Images that the model was trained on are
            left out where they are known, unless the split is train.
        robustness: also evaluate shifted, scaled, rotated, blurred and relit images.
        limit: evaluate at most this many images, drawn from each class in proportion.
        wrong: a CSV file for every wrong image, the most confident first.
        report: an HTML file for all of it as one page, with images.
        answers: a file for all answers, one JSON line for each image.
        max_error, unknown: as in `predict`: what becomes of the promise on these images; see `Evaluation.abstention`.
        unknown_images: a folder, file or pattern of images that show none of the classes: how many are answered.
        batch_size, workers, device, quiet, observer: as in `predict`.
        part: the former name of split.

    Raises:
        ArtefactError: there is no model, or it is damaged.
        DataError: there are no images, none can be read, or the model does not know their classes.
        ResourceError: a file cannot be written.
        UsageError: the folder has no such split, a keyword has an impossible value, or a file holds something else.
    """
    require_working_directory()
    from cnn_tl.evaluating.evaluate import EvaluationOptions
    from cnn_tl.evaluating.evaluate import evaluate as run_evaluate
    from cnn_tl.reporting.evaluation_files import EvaluationFiles

    check_values(device, limit=limit, batch_size=batch_size, workers=workers)
    check_shares(max_error=max_error, unknown=unknown)
    model, images = path_text(source, "source", MODEL), path_text(data, "data")
    named = {"wrong": wrong, "report": report, "answers": answers}
    places = EvaluationFiles(**{key: Path(path_text(path, key)) for key, path in named.items() if path is not None})
    places.require_places(Path(model))
    foreign = None if unknown_images is None else path_text(unknown_images, "unknown_images")
    options = EvaluationOptions(
        split or part,
        robustness,
        limit,
        batch_size,
        workers,
        device,
        places.need_digests,
        max_error,
        unknown,
        foreign,
    )
    with quiet_dependencies():
        found = run_evaluate(model, images, options, choose_observer(observer, quiet))
        places.write(found, device)
    return found


@with_keywords
def report(
    run: PathLike,
    output: PathLike | None = None,
    *,
    heat_maps: bool = True,
    device: DeviceName = "auto",
) -> ReportWritten:
    """Write all about a finished run into one HTML file, which loads nothing from elsewhere.

        written = cnn_tl.report("runs/photos-freeze", "photos.html")
        print(written.verdict, written.figures.accuracy)

    Args:
        run: a run folder, or the result of `train`.
        output: the HTML file; by default report.html in the run folder.
        heat_maps: draw at most 24 of them over the worst mistakes, for at most 15 seconds.
        device: where the model runs for them.

    Raises:
        ArtefactError: there is no such run, it has not finished, or a file of it is damaged.
        ResourceError: the file cannot be written.
        UsageError: the file exists and is no page of cnn-tl, or its name does not end in .html.
    """
    require_working_directory()
    from cnn_tl.reporting.report import PageOptions
    from cnn_tl.reporting.written import report as write

    check_values(device)
    folder = Path(path_text(run, "run", "a run folder, or the result of train"))
    file = None if output is None else Path(path_text(output, "output"))
    with quiet_dependencies():
        return write(folder, file, PageOptions(heat_maps=heat_maps, device=device))


@with_keywords
def compare(
    runs: Sequence[PathLike],
    data: PathLike | None = None,
    *,
    split: str | None = None,
    report: PathLike | None = None,
    device: DeviceName = "auto",
    quiet: bool = False,
    observer: Observer | None = None,
) -> Comparison:
    """Compare finished runs on the images that they have in common, joined by content.

        found = cnn_tl.compare(["runs/photos-freeze", "runs/photos-finetune"])
        print(found.differences[0].verdict, found.differences[0].p_corrected)

    Each run is compared with the first one.

    Args:
        runs: two or more run folders, results of `train`, or files that `evaluate` wrote as `answers`; with `data`,
            also bundles and .onnx files.
        data: labelled images on which all runs are evaluated first; by default, their validation images are compared.
        split: of data, as in `evaluate`.
        report: an HTML file to write as well, with the images that only one run gets right.
        device, quiet, observer: as in `predict`.

    Raises:
        UsageError: there are fewer than two runs, one is named twice, a split is named without data, or the report
            would overwrite another file.
        ArtefactError: a run has not finished, or a file of it is damaged.
        DataError: the runs have different classes, or no images in common.
    """
    require_working_directory()
    from cnn_tl.evaluating.evaluate import EvaluationOptions
    from cnn_tl.reporting.compare import compare as run_compare
    from cnn_tl.reporting.own_pages import require_page_place

    if isinstance(runs, str | os.PathLike) or not isinstance(runs, Sequence):
        raise UsageError("compare takes a list of run folders")
    check_values(device)
    if data is None and split is not None:
        raise UsageError("split is one of data; name its folder as data")
    images = None if data is None else Path(path_text(data, "data"))
    page = None if report is None else Path(path_text(report, "report"))
    if page is not None:
        require_page_place(page, "report")
    folders = [Path(path_text(run, "runs")) for run in runs]
    with quiet_dependencies():
        options = EvaluationOptions(split=split, device=device)
        found = run_compare(folders, images, options, choose_observer(observer, quiet))
    if page is not None:
        from cnn_tl.reporting.compare_page import write_comparison

        write_comparison(found, page)
    return found


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
) -> ExplainReport:
    """Show why a trained model answers as it does: one PNG for each image, and a contact sheet.

        report = cnn_tl.explain("runs/photos-freeze", "photos/val", limit=8)
        print(report.folder, report.rows[0])

    Args:
        source: a run folder, a bundle, or the result of `train`.
        images: files, folders and patterns; for top-patches the images to search, for filters none.
        method: gradcam, xgradcam, layercam, occlusion, feature-maps, deconv, guided, top-patches or filters.
        output: the folder to write; by default explanations/METHOD.
        layer: its name in the model; by default the last map before the global pool.
        label: the class to explain; by default the predicted one.
        channels: of the layer; by default the strongest.
        patch, stride: of the occlusion, as shares of the image's sides.
        faithfulness: measure deletion and insertion of each heat map; 200 passes an image.
        limit: explain at most this many of the images.
        device, quiet, observer: as in `predict`.

    Raises:
        UsageError: there is no such method, layer, class or channel, or the folder holds other files.
        ArtefactError: there is no model, or it is damaged.
        DataError: none of the images can be read.
    """
    require_working_directory()
    from cnn_tl.core.device import fp32_switches_restored
    from cnn_tl.explaining.options import Method, prepare

    check_values(device, limit=limit)
    if not isinstance(images, str | os.PathLike | Sequence):
        raise UsageError(f"{type(images).__name__} is not a path: explain takes files, folders and patterns")
    named = [images] if isinstance(images, str | os.PathLike) else images
    job = prepare(
        Path(path_text(source, "source", MODEL)),
        [os.fspath(one) for one in named],
        None if output is None else Path(path_text(output, "output")),
        Method(method, layer, label, tuple(channels), patch, stride, faithfulness),
        limit=limit,
    )
    from cnn_tl.explaining.explain import explain as run_explain

    with quiet_dependencies(), fp32_switches_restored():
        return run_explain(job, device, choose_observer(observer, quiet))


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

    Nothing is downloaded: the network runs without weights.

    Args:
        model: any timm model by name, a run folder, a bundle, or the result of `train`.
        mode: mark what trains in this mode of `train`; by default that of the run, else freeze.
        freeze: what trains: head, last-stage, last-N, norm, all, or a list of names.
        image_size: side of the network's input in pixels.
        depth: how many parts of a name make a row, such as 2 for `layer1.0`; 0 for every single layer.

    Raises:
        UsageError: there is no such model, or it has no layer that the policy names.
        ArtefactError: the folder holds no whole model.
    """
    require_working_directory()
    from cnn_tl.anatomy.lookup import look_up

    check_values("auto", image_size=image_size, depth=depth)
    name = path_text(model, "model", f"a timm model by name, or {MODEL}")
    if not isinstance(model, str) and os.sep not in name:
        name = os.path.join(os.curdir, name)  # noqa: PTH118 - marks a path as such; pathlib would drop the dot
    subject, training = look_up(name, mode=mode, freeze=freeze, image_size=image_size)
    from cnn_tl.anatomy import table

    return table.inspect(subject, training, depth)


@with_keywords
def benchmark(
    data: PathLike | None = None,
    *,
    model: str | None = None,
    device: DeviceName = "auto",
    images: int = 256,
    quiet: bool = False,
    observer: Observer | None = None,
) -> BenchmarkReport:
    """Measure how fast this machine decodes, embeds, fits a head and trains, in about half a minute.

        report = cnn_tl.benchmark()
        for stage in report.stages:
            print(stage.stage, stage.value, stage.unit)
        print(report.verdict)

    Args:
        data: class folders; by default crops of the two photographs that come with scikit-learn.
        model: a timm model by name, by default the one that `train` uses; its weights are random, which makes no
            difference to speed.
        device: auto, cpu, cuda or mps.
        images: how many images of the folder to use; stages that need more use them again.
        quiet, observer: as in `train`.

    Raises:
        UsageError: there is no such model, or a keyword has an impossible value.
        DataError: the folder holds no usable images. ResourceError: the device is not available.
    """
    require_working_directory()
    from cnn_tl.evaluating.benchmark import DEFAULT_MODEL
    from cnn_tl.evaluating.benchmark import benchmark as run_benchmark

    check_values(device, images=images)
    folder = None if data is None else path_text(data, "data")
    with quiet_dependencies():
        return run_benchmark(
            folder,
            model=model or DEFAULT_MODEL,
            device=device,
            images=images,
            observer=choose_observer(observer, quiet),
        )

"""A finished run, or an evaluation, becomes one page: its verdict, figures, images, data, cost and provenance."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.abstention.distance import UNKNOWN_SHARE
from cnn_tl.core import files
from cnn_tl.core.device import DeviceName
from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.core.formatting import counted
from cnn_tl.core.text_encoding import native
from cnn_tl.data.manifest import Manifest, Split
from cnn_tl.metrics.answers import LabelledAnswers
from cnn_tl.metrics.figures import Figures, figures_of
from cnn_tl.networks import bundle
from cnn_tl.networks.pretrained.weights import PACKAGES
from cnn_tl.pages.content import ReportPage, SavedCurve
from cnn_tl.reporting import cost, data_table, doctor_findings, galleries, provenance, thumbnails
from cnn_tl.reporting.abstention_rows import abstention_table
from cnn_tl.reporting.heat_maps import draw_heat_maps
from cnn_tl.reporting.learning_curve import saved_curve
from cnn_tl.reporting.verdict import Circumstances, verdict
from cnn_tl.training.outcome import Facts
from cnn_tl.training.result import Finished, TrainResult, read_result
from cnn_tl.training.run_answers import answers_of_run
from cnn_tl.training.run_folder import RunFolder

if TYPE_CHECKING:
    from cnn_tl.evaluating.evaluate import Evaluation

PROMISED = 0.05
"""The share of errors of which the page of a run speaks."""


@dataclass(frozen=True)
class PageOptions:
    """What may be spent on a page.

    Attributes:
        heat_maps: also draw heat maps, for which the model is loaded.
        device: where the model runs then.
        deadline: by `time.monotonic`; no thumbnail and no heat map is begun after it.
    """

    heat_maps: bool = True
    device: DeviceName = "auto"
    deadline: float = math.inf


DEFAULTS = PageOptions()

_SPLITS = {"train": "training", "val": "validation", "test": "test"}
"""In words."""


def report_of_run(path: Path, options: PageOptions = DEFAULTS) -> ReportPage:
    """Return the page of a finished run, on its validation images.

    Raises:
        ArtefactError: there is no such run, it has not finished, or a file of it is damaged.
    """
    folder = RunFolder(path)
    result = finished_result(folder)
    manifest = Manifest.from_json(files.read_json(folder.manifest))
    answers = answers_of_run(folder, manifest)
    if not len(answers):
        raise ArtefactError(f"{printable(folder.validation)} has no images")
    return report_of_finished(Finished(result, manifest, answers), options)


def _promise(folder: RunFolder) -> str | None:
    """Return what the model can promise of images like those of training; None for one of an earlier version.

    Raises:
        ArtefactError: the bundle is damaged.
    """
    evidence = bundle.describe(folder.bundle).evidence
    return None if evidence is None else evidence.promise(PROMISED, UNKNOWN_SHARE).text


def report_of_finished(finished: Finished, options: PageOptions = DEFAULTS) -> ReportPage:
    """Return the page of a run that may not have written its result yet.

    Raises:
        ArtefactError: a file of the run is damaged.
    """
    result, manifest, answers = finished.result, finished.manifest, finished.answers
    path, folder = result.run, RunFolder(result.run)
    spent = cost.cost_of(folder.bundle, result)
    epochs = tuple(row for row in folder.read_metrics() if "epoch" in row)
    origin = provenance.provenance_of(folder, manifest, result)
    examined = doctor_findings.recall(origin["sha256"]["data"])
    curve, promise = saved_curve(folder), _promise(folder)
    data = data_table.data_facts(manifest) | {"doctor": examined and asdict(examined)}
    return _page(
        answers,
        figures_of(answers, result.baseline_class),
        _circumstances(folder, data["images"], result, curve),
        manifest.root,
        path,
        options,
        sha256={image.path: image.sha256 for image in manifest.of("val")},
        title=printable(path),
        subtitle=f"{result.mode}, {result.backbone}, {counted(len(answers), 'validation image')}",
        epochs=epochs,
        kept_epoch=Facts.from_dict(result.facts).kept_epoch(epochs[-1]["epoch"] if epochs else 0),
        tables=(
            data_table.data_table(manifest, data, examined),
            cost.cost_table(spent, result.facts),
            provenance.provenance_table(origin),
        ),
        commands=provenance.commands_of(folder),
        learning_curve=curve,
        promise=promise,
        facts={
            "run": printable(path),
            **origin,
            "cost": spent.to_dict(),
            "data": data,
            "learning_curve": curve and asdict(curve),
            "promise": promise,
        },
    )


def report_of_evaluation(evaluation: Evaluation, options: PageOptions = DEFAULTS) -> ReportPage:
    """Return the page of a model on the images of an evaluation."""
    answers = evaluation.answers
    split = f"{evaluation.split} split of " if evaluation.split else ""
    return _page(
        answers,
        evaluation.figures,
        Circumstances(what=_SPLITS.get(evaluation.split or "", ""), trained_on=evaluation.split == "train"),
        evaluation.root,
        evaluation.source,
        options,
        title=f"{evaluation.model} on {evaluation.data}",
        subtitle=f"{counted(len(answers), 'image')}, {split}{evaluation.data}",
        tables=(data_table.evaluation_table(evaluation), abstention_table(evaluation.abstention)),
        commands=(provenance.evaluate_command(evaluation),),
        facts={
            "model": evaluation.model,
            "data": evaluation.data,
            "split": evaluation.split,
            "abstention": asdict(evaluation.abstention),
        },
    )


def write_report(page: ReportPage, output: Path) -> None:
    """Write the page as one HTML file.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    from cnn_tl.pages.report import render_report

    files.write_text(output, render_report(page))


def _page(
    answers: LabelledAnswers,
    figures: Figures,
    about: Circumstances,
    root: Path,
    model: Path,
    options: PageOptions,
    sha256: Mapping[str, str] | None = None,
    **described: Any,
) -> ReportPage:
    """Choose and draw the images, and judge.

    Args:
        root: the folder of the images. model: the run, bundle or .onnx file that draws heat maps.
        sha256: file -> digest of what was predicted, where the file may have changed since.
        described: the other fields of `ReportPage`.
    """
    chosen = galleries.choose(answers)
    paths = {index: root / native(answers.files[index]) for index in chosen.in_order()}
    digests = {index: (sha256 or {}).get(answers.files[index], "") for index in paths}
    drawn = thumbnails.draw(paths, options.deadline, digests)
    wanted = [index for index in chosen.for_heat_maps() if index in drawn.drawn] if options.heat_maps else []
    maps = draw_heat_maps(
        model,
        {index: (paths[index], int(answers.predicted[index])) for index in wanted},
        options.device,
        options.deadline,
    )
    cards = galleries.cards(answers, chosen, drawn, maps)
    return ReportPage(
        verdict=verdict(figures, answers, len(chosen.doubtful), about),
        figures=figures,
        answers=answers,
        cards=cards,
        galleries=galleries.galleries(answers, chosen, cards),
        class_galleries=galleries.class_galleries(chosen, cards),
        heat_map_method=maps.method,
        notes=(*drawn.notes(), *maps.notes),
        **described,
    )


def _circumstances(
    folder: RunFolder, images: dict[str, dict[Split, int]], result: TrainResult, curve: SavedCurve | None
) -> Circumstances:
    name, sizes = folder.own_recipe().model.name, list(PACKAGES)
    kept = (result.facts.get("verdict") or {}).get("kept")
    return Circumstances(
        what="validation",
        training_images={name: counts["train"] for name, counts in images.items()},
        mode=result.mode,
        fine_tuning_failed=kept == "frozen" or result.facts.get("best_epoch") == 0,
        larger_model=sizes[-1] if name in sizes[:-1] else None,
        ask_for_curve=None if curve else f"cnn-tl learning-curve {shlex.quote(printable(folder.path))}",
    )


def finished_result(folder: RunFolder) -> TrainResult:
    """Return the result of a run.

    Raises:
        ArtefactError: it is no run, it has not finished, or its result is damaged.
    """
    where = printable(folder.path)
    if folder.never_began or (folder.recipe.is_file() and not folder.result.is_file()):
        raise ArtefactError(f"{where} has not finished; finish it first: {folder.resume_command}")
    if not folder.recipe.is_file():
        raise ArtefactError(f"{where} is not a run folder of cnn-tl")
    return read_result(folder)

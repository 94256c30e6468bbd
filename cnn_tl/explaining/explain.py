"""`cnn-tl explain`: load the model, draw each explanation, and write the folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cnn_tl.core import files
from cnn_tl.core.device import DeviceName, may_be_gpu
from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.imports import require_torch
from cnn_tl.core.progress import Observer
from cnn_tl.explaining.answering import AnsweringModel
from cnn_tl.explaining.heat_map_drawing import LOGIT_METHODS, draw_heat_maps
from cnn_tl.explaining.methods.linear_gradcam import LAYER, LinearGradCam
from cnn_tl.explaining.options import REPORT, SHEET, ExplainJob, require_own_folder
from cnn_tl.explaining.predicted_images import Explanation
from cnn_tl.explaining.report import ExplainReport, Row, UnreadableRow
from cnn_tl.networks import bundle
from cnn_tl.plots import explanation as plots
from cnn_tl.plots.explanation import Drawing

DRAWINGS_PER_SHEET = 20


def explain(job: ExplainJob, device: DeviceName = "auto", observer: Observer | None = None) -> ExplainReport:
    """Write the explanations into a folder, which appears whole and replaces that of an earlier call.

    Raises:
        ArtefactError: there is no model, or it is damaged.
        UsageError: the model has no such layer, class or channel, or the folder holds other files.
        DataError: none of the images can be read; the folder is left as it was.
        ResourceError: the disk is full or not writable, or the device is not available.
    """
    observer = observer or Observer()
    layer, explanations = _start(job, device, observer)
    require_own_folder(job.output)
    with files.atomic_folder(job.output) as folder:
        writer = _FolderWriter(folder)
        for explanation in explanations:
            writer.add(explanation)
        report = writer.finish(job, layer)
        files.write_json(folder / REPORT, report.to_dict())
    return report


def _start(job: ExplainJob, device: DeviceName, observer: Observer) -> tuple[str | None, Iterator[Explanation]]:
    """Return the name of the layer that the method looks at, if any, and its explanations, not yet computed."""
    if started := _start_without_torch(job, device, observer):
        return started
    draw = LOGIT_METHODS.get(job.method.name)
    if draw is None:
        require_torch(f"method {job.method.name} (not for occlusion)")
    else:
        require_torch(f"device {device}" if may_be_gpu(device) else "a model without graph.onnx")
    from cnn_tl.explaining.drawing import LAYER_METHODS, OTHER_METHODS
    from cnn_tl.explaining.model import load

    with observer.task("loading the model", None):
        model = load(job.model, device)
    if draw is not None:
        return None, draw(model.answering, job, observer)
    if job.method.name in OTHER_METHODS:
        return None, OTHER_METHODS[job.method.name](model, job, observer)
    from cnn_tl.explaining import target_layers
    from cnn_tl.explaining.methods import feature_maps

    layer = target_layers.find(model.network, model.grey_input(), job.method.layer)
    feature_maps.check_channels(layer, list(job.method.channels))
    return layer.name, LAYER_METHODS[job.method.name](model, job, layer, observer)


def _start_without_torch(
    job: ExplainJob, device: DeviceName, observer: Observer
) -> tuple[str | None, Iterator[Explanation]] | None:
    """Return the same as `_start`; None where torch may have to run the model, or the method needs it for this one."""
    draw = LOGIT_METHODS.get(job.method.name)
    is_linear_gradcam = job.method.name == "gradcam" and job.method.layer is None
    if may_be_gpu(device) or not (draw or is_linear_gradcam):
        return None
    with observer.task("loading the model", None):
        stored = bundle.read(job.model)
        if stored.graph is None:
            return None
        if draw is not None:
            return None, draw(AnsweringModel.of(stored), job, observer)
        gradcam = LinearGradCam.of(stored)
        if gradcam is None:
            return None
        return LAYER, draw_heat_maps(AnsweringModel.of(stored), job, gradcam, observer)


class _FolderWriter:
    """Writes a PNG for each explanation, and contact sheets of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[Row] = []
        self._images: list[str | None] = []
        self._sheets: list[str] = []
        self._next_sheet: list[Drawing] = []

    def add(self, explanation: Explanation) -> None:
        """Write one explanation; an unreadable image gets a row only."""
        self._rows.append(explanation.row)
        if explanation.drawing is None:
            self._images.append(None)
            return
        name = f"{explanation.stem}.png"
        plots.plot_explanation(self._folder / name, explanation.drawing)
        self._images.append(name)
        self._next_sheet.append(explanation.drawing)
        if len(self._next_sheet) == DRAWINGS_PER_SHEET:
            self._write_sheet()

    def finish(self, job: ExplainJob, layer: str | None) -> ExplainReport:
        """Write the last contact sheet and return the report.

        Raises:
            DataError: none of the images could be read.
        """
        if self._next_sheet:
            self._write_sheet()
        if not self._sheets:
            [first, *_] = [row for row in self._rows if isinstance(row, UnreadableRow)]
            raise DataError(f"no image can be read, such as {printable(first.file)}: {first.error}")
        sheets, rows, images = tuple(self._sheets), tuple(self._rows), tuple(self._images)
        return ExplainReport(job.method.name, layer, job.output, sheets, rows, images)

    def _write_sheet(self) -> None:
        name = f"{SHEET}.png" if not self._sheets else f"{SHEET}-{len(self._sheets) + 1}.png"
        plots.plot_contact_sheet(self._folder / name, self._next_sheet)
        self._sheets.append(name)
        self._next_sheet.clear()

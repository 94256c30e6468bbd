"""Heat maps over images, with their deletion and insertion curves; occlusion, which needs nothing but logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import printable
from cnn_tl.core.progress import Observer
from cnn_tl.data.loader import Pixels
from cnn_tl.explaining import faithfulness
from cnn_tl.explaining.answering import AnsweringModel
from cnn_tl.explaining.faithfulness import Faithfulness
from cnn_tl.explaining.methods import heat_maps
from cnn_tl.explaining.options import ExplainJob
from cnn_tl.explaining.predicted_images import Explanation, PredictedImage, predict_images
from cnn_tl.explaining.report import Areas, HeatMapRow
from cnn_tl.plots import explanation as plots

HeatMap = Callable[[Pixels, int], NDArray[np.float32]]
"""From a preprocessed image, uint8 [H, W, 3], and the index of a class to the evidence for it by place, [h, w]."""


def occlusion_maps(model: AnsweringModel, job: ExplainJob, observer: Observer) -> Iterator[Explanation]:
    """Draw the occlusion map of each image; see `heat_maps.occlusion_map`."""
    patch, stride = job.method.patch or heat_maps.PATCH, job.method.stride or heat_maps.STRIDE

    def heat_map(pixels: Pixels, index: int) -> NDArray[np.float32]:
        return heat_maps.occlusion_map(model.logits, model.to_input(pixels), index, patch=patch, stride=stride)

    return draw_heat_maps(model, job, heat_map, observer)


LOGIT_METHODS = {"occlusion": occlusion_maps}
"""Methods that need nothing but logits, so that on a CPU they run without torch."""


def draw_heat_maps(
    model: AnsweringModel, job: ExplainJob, heat_map: HeatMap, observer: Observer
) -> Iterator[Explanation]:
    """Draw a heat map over each image, with its deletion and insertion curves."""
    wanted = None if job.method.label is None else model.class_index(job.method.label)
    grey_1K = model.logits(model.grey_input())
    for image in predict_images(model, job, observer):
        if isinstance(image, Explanation):
            yield image
            continue
        index = model.classes.index(image.prediction.label) if wanted is None else wanted
        map_hw, x_1CHW = heat_map(image.pixels, index), model.to_input(image.pixels)
        after, before = heat_maps.log_odds(np.concatenate([model.logits(x_1CHW), grey_1K]), index)
        caveat = heat_maps.caveat(map_hw, after - before)
        measured = None
        if job.method.faithfulness and caveat is None:
            measured = faithfulness.measure(model, x_1CHW, map_hw, index)
        yield _drawn(model, job, image, index, map_hw, caveat, measured)


def _drawn(
    model: AnsweringModel,
    job: ExplainJob,
    image: PredictedImage,
    index: int,
    map_hw: NDArray[np.float32],
    caveat: str | None,
    measured: Faithfulness | None,
) -> Explanation:
    explained = model.classes[index]
    areas = None if measured is None else measured.areas
    row = HeatMapRow(
        **asdict(image.prediction), explained=explained, empty=caveat == heat_maps.EMPTY, caveat=caveat, areas=areas
    )
    drawing = image.drawn(
        lines=(caveat,) if caveat else _area_lines(areas),
        panel=plots.heat_over(image.pixels, faithfulness.enlarge(map_hw, *image.pixels.shape[:2])),
        caption=f"{job.method.name} for {printable(explained)}",
        curves=measured,
    )
    return Explanation(row, image.stem, drawing)


def _area_lines(areas: Areas | None) -> tuple[str, ...]:
    if areas is None:
        return ()
    return (
        f"deletion {areas.deletion:z.2f} (random map {areas.random_deletion:z.2f})",
        f"insertion {areas.insertion:z.2f} (random map {areas.random_insertion:z.2f})",
    )

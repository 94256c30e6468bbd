"""How each method that needs torch turns images into explanations: one function for each kind of drawing.

To add a method, write a function here, enter it in `LAYER_METHODS` or `OTHER_METHODS`, and list its options in
`options.OPTIONS_OF`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnn_tl.core.progress import Observer
from cnn_tl.data.loader import Pixels, batches
from cnn_tl.data.views import transforms
from cnn_tl.explaining import target_layers
from cnn_tl.explaining.faithfulness import enlarge
from cnn_tl.explaining.heat_map_drawing import draw_heat_maps
from cnn_tl.explaining.methods import deconv, feature_maps, heat_maps
from cnn_tl.explaining.methods.top_patches import TopPatches, maps_of
from cnn_tl.explaining.model import BATCH, ExplainedModel
from cnn_tl.explaining.options import ExplainJob
from cnn_tl.explaining.predicted_images import Explanation, predict_images, read
from cnn_tl.explaining.report import (
    ChannelsRow,
    FiltersRow,
    TopPatch,
    TopPatchesRow,
    UnreadableRow,
)
from cnn_tl.explaining.target_layers import MapLayer
from cnn_tl.plots import explanation as plots
from cnn_tl.plots.explanation import Drawing

_TILE = 112
"""Side in pixels of one of nine tiles: a channel, a patch or a projection."""


def class_activation_maps(
    model: ExplainedModel, job: ExplainJob, layer: MapLayer, observer: Observer
) -> Iterator[Explanation]:
    """Draw the class activation map of each image; see `heat_maps.class_activation_map`."""

    def heat_map(pixels: Pixels, index: int) -> NDArray[np.float32]:
        x_1CHW = model.to_input(pixels)
        found: NDArray[np.float32] = (
            heat_maps.class_activation_map(job.method.name, model, layer, x_1CHW, index).float().cpu().numpy()
        )
        return found

    return draw_heat_maps(model.answering, job, heat_map, observer)


def channels(model: ExplainedModel, job: ExplainJob, layer: MapLayer, observer: Observer) -> Iterator[Explanation]:
    """Draw the strongest channels of each image: as maps over it, or projected back to pixels."""
    for image in predict_images(model.answering, job, observer):
        if isinstance(image, Explanation):
            yield image
            continue
        x_1CHW = model.to_input(image.pixels)
        found = feature_maps.strongest(model, layer, x_1CHW, list(job.method.channels))
        if job.method.name in deconv.RULES:
            tiles = _projections(job.method.name, model, layer, x_1CHW, found)
        else:
            tiles = _maps(image.pixels, found)
        drawing = image.drawn(
            lines=(f"channels {', '.join(map(str, found.channels))}, row by row",),
            panel=plots.mosaic(tiles),
            caption=f"{job.method.name} of {layer.name}",
        )
        peaks = tuple(round(peak, 4) for peak in found.peaks)
        row = ChannelsRow(**asdict(image.prediction), channels=tuple(found.channels), peaks=peaks)
        yield Explanation(row, image.stem, drawing)


def _maps(pixels: Pixels, found: feature_maps.Strongest) -> list[Pixels]:
    enlarged = (enlarge(one.float().cpu().numpy(), *pixels.shape[:2]) for one in found.maps)
    return [plots.heat_over(pixels, one) for one in enlarged]


def _projections(
    rule: str, model: ExplainedModel, layer: MapLayer, x_1CHW: Tensor, found: feature_maps.Strongest
) -> list[Pixels]:
    channel_N, place_N = torch.tensor(found.channels), torch.tensor(found.places)
    x_NCHW = x_1CHW.expand(len(channel_N), -1, -1, -1)
    signals = deconv.project(rule, model.network, layer, x_NCHW, channel_N, place_N)
    return [plots.signed(signal.permute(1, 2, 0).cpu().numpy()) for signal in signals]


def top_patches(model: ExplainedModel, job: ExplainJob, layer: MapLayer, observer: Observer) -> Iterator[Explanation]:
    """Draw for each channel the nine patches that activate it most, beside their projections."""
    best = TopPatches()
    with observer.task("searching", len(job.images)):
        numbered = enumerate(job.images)
        for batch in batches(numbered, partial(read, model.answering), batch_size=BATCH, workers=job.workers):
            for (_, path), error in batch.failures:
                yield Explanation(UnreadableRow(str(path), error.reason), path.stem, None)
            if batch.items:
                x_NCHW = torch.cat([model.to_input(pixels) for pixels in batch.pixels])
                best.add(batch.items, maps_of(model, layer, x_NCHW))
            observer.advance(len(batch.items) + len(batch.failures))
    if best.files:
        chosen = list(job.method.channels) or best.strongest_channels()
        with observer.task("projecting", len(chosen), "channels"):
            for channel in chosen:
                yield _patches_of(model, layer, best, channel)
                observer.advance(1)


def _patches_of(model: ExplainedModel, layer: MapLayer, best: TopPatches, channel: int) -> Explanation:
    paths = [best.files[number] for number in best.image[channel].tolist()]
    images = [transforms.read_pixels(path, model.preprocessing) for path in paths]
    x_NCHW = torch.cat([model.to_input(pixels) for pixels in images])
    channel_N, place_N = torch.full((len(paths),), channel), best.place[channel]
    rule = "deconv" if deconv.has_switches(model.network) else "guided"
    signals_NCHW = deconv.project(rule, model.network, layer, x_NCHW, channel_N, place_N)
    signals = signals_NCHW.permute(0, 2, 3, 1).cpu().numpy()
    boxes = deconv.receptive_fields(model.network, layer, x_NCHW, channel_N, place_N)
    crops = [(slice(top, bottom), slice(left, right)) for top, left, bottom, right in boxes]
    patches = [pixels[crop] for pixels, crop in zip(images, crops, strict=True)]
    projections = [plots.signed(signal[crop]) for signal, crop in zip(signals, crops, strict=True)]
    values = best.value[channel].tolist()
    found = tuple(
        TopPatch(str(path), round(value, 4), box) for path, value, box in zip(paths, values, boxes, strict=True)
    )
    side = max(max(bottom - top, right - left) for top, left, bottom, right in boxes)
    lines = (f"{layer.name}, channel {channel}", f"activations {values[0]:.3g} to {values[-1]:.3g}, {side} px wide")
    panels = plots.mosaic(patches, _TILE), plots.mosaic(projections, _TILE)
    drawing = Drawing(lines, panels, ("top patches", f"their projections ({rule})"))
    return Explanation(TopPatchesRow(channel, side, rule, found), f"channel-{channel}", drawing)


def filters(model: ExplainedModel, job: ExplainJob, observer: Observer) -> Iterator[Explanation]:
    """Draw the kernels of the first convolution, each scaled separately; 0 is grey."""
    name, convolution = target_layers.first_convolution(model.network, model.grey_input())
    kernels_OIhw = convolution.weight.detach().float().cpu()
    in_colour = kernels_OIhw.shape[1] == 3
    shown = kernels_OIhw if in_colour else kernels_OIhw.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    count, inputs, height, width = kernels_OIhw.shape
    tiles = [plots.signed(kernel.permute(1, 2, 0).numpy()) for kernel in shown]
    lines = (f"{model.name}, {name}: {count} filters of {height} x {width} px",)
    caption = "each scaled separately; grey is zero" + ("" if in_colour else f"; mean over {inputs} inputs")
    drawing = Drawing(lines, (plots.mosaic(tiles, 8 * max(height, width)),), (caption,))
    yield Explanation(FiltersRow(name, count, inputs, height, width), "filters", drawing)


LAYER_METHODS: dict[str, Callable[[ExplainedModel, ExplainJob, MapLayer, Observer], Iterator[Explanation]]] = {
    **dict.fromkeys(heat_maps.CAM_METHODS, class_activation_maps),
    "feature-maps": channels,
    **dict.fromkeys(deconv.RULES, channels),
    "top-patches": top_patches,
}
"""Methods that look at one layer, which `--layer` chooses."""

OTHER_METHODS: dict[str, Callable[[ExplainedModel, ExplainJob, Observer], Iterator[Explanation]]] = {
    "filters": filters,
}
"""Other methods that need torch; `heat_map_drawing.LOGIT_METHODS` need none."""

"""From images to explanations: what each method draws, and the folder that they are written to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnn_tl.core import files
from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.progress import Observer
from cnn_tl.data.loader import Pixels, batches
from cnn_tl.data.views import transforms
from cnn_tl.explaining import faithfulness, layers
from cnn_tl.explaining.methods import cam, covering, deconv, feature_maps, occlusion
from cnn_tl.explaining.methods.top_patches import TopPatches, maps_of
from cnn_tl.explaining.model import BATCH, Subject, log_odds
from cnn_tl.explaining.options import ROWS, SHEET, Request, check_output
from cnn_tl.explaining.predicted_images import Explanation, look, read
from cnn_tl.plots import explanation as plots
from cnn_tl.plots.explanation import Drawing

ON_ONE_SHEET = 20
_TILE = 112
"""Side in pixels of one channel, patch or projection among nine."""


@dataclass(frozen=True)
class Report:
    """What was written where.

    Attributes:
        method, layer: how, and where in the model; no layer for a method that has none.
        folder: with one PNG for each explanation, the contact sheets and the rows as JSON.
        sheets: the names of the contact sheets. rows: one for each image, channel or layer.
    """

    method: str
    layer: str | None
    folder: Path
    sheets: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]

    def __repr__(self) -> str:
        """Return such as `<Report of gradcam: 8 rows in explanations/gradcam>`."""
        return f"<Report of {self.method}: {len(self.rows)} rows in {printable(self.folder)}>"

    def _repr_png_(self) -> bytes | None:
        """Let a notebook show the first contact sheet."""
        path = self.folder / self.sheets[0] if self.sheets else None
        return path.read_bytes() if path is not None and path.is_file() else None

    @property
    def unread(self) -> int:
        """How many images could not be read."""
        return sum(row.get("error") is not None for row in self.rows)

    def better_than_random(self, curve: str) -> tuple[int, int]:
        """Return on how many images the area is better than that of random maps, and of how many."""
        judged = [row for row in self.rows if row.get(curve) is not None]
        sign = -1 if curve == "deletion" else 1
        return sum(sign * (row[curve] - row[f"random_{curve}"]) > 0 for row in judged), len(judged)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        facts = {"method": self.method, "layer": self.layer, "folder": str(self.folder), "sheets": list(self.sheets)}
        return {**facts, "rows": list(self.rows)}


Draw = Callable[[Subject, Request, layers.MapLayer | None, Observer], Iterator[Explanation]]


def explain(subject: Subject, request: Request, output: Path, observer: Observer | None = None) -> Report:
    """Draw what is asked for into a folder, which appears whole and replaces one that an earlier call has written.

    Raises:
        UsageError: a layer, class or channel that the model has not, or a folder that holds other things.
        DataError: none of the images can be read; what lies in the folder stays.
        ResourceError: the disk is full or not writable.
    """
    check_output(output)
    draw, has_layer = METHODS[request.method]
    layer = layers.find(subject.model, subject.blank(), request.layer) if has_layer else None
    if layer is not None:
        feature_maps.check_channels(layer, list(request.channels))
    rows: list[dict[str, Any]] = []
    sheets: list[str] = []
    waiting: list[Drawing] = []
    with files.atomic_folder(output) as folder:

        def write_sheet() -> None:
            if waiting:
                sheets.append(f"{SHEET}.png" if not sheets else f"{SHEET}-{len(sheets) + 1}.png")
                plots.plot_contact_sheet(folder / sheets[-1], waiting)
                waiting.clear()

        for found in draw(subject, request, layer, observer or Observer()):
            name = f"{found.stem}.png" if found.drawing is not None else None
            rows.append({**found.row, "image": name})
            if found.drawing is not None and name is not None:
                plots.plot_explanation(folder / name, found.drawing)
                waiting.append(found.drawing)
            if len(waiting) == ON_ONE_SHEET:
                write_sheet()
        write_sheet()
        if not sheets:
            raise DataError(f"no image can be read, such as {printable(rows[0]['file'])}: {rows[0]['error']}")
        report = Report(request.method, layer.name if layer else None, output, tuple(sheets), tuple(rows))
        files.write_json(folder / ROWS, report.to_dict())
    return report


def _heat_maps(
    subject: Subject, request: Request, layer: layers.MapLayer | None, observer: Observer
) -> Iterator[Explanation]:
    """Draw a heat map over each image, with its deletion and insertion curves."""
    wanted = None if request.label is None else subject.class_index(request.label)
    blank_1K = subject.logits(subject.blank())
    for seen in look(subject, request, observer):
        if isinstance(seen, Explanation):
            yield seen
            continue
        index = subject.classes.index(seen.answer["label"]) if wanted is None else wanted
        map_hw = _heat_map(subject, request, layer, seen.x_1CHW, index)
        heat_HW = faithfulness.enlarge(map_hw, *seen.pixels.shape[:2])
        evidence = float(log_odds(subject.logits(seen.x_1CHW), index) - log_odds(blank_1K, index))
        caveat = covering.caveat(map_hw.cpu().numpy(), evidence)
        asked = request.faithfulness and caveat is None
        measured = faithfulness.measure(subject, seen.x_1CHW, map_hw, index) if asked else None
        areas = dict.fromkeys(faithfulness.AREAS) if measured is None else measured.to_dict()
        explained = subject.classes[index]
        yield seen.explained(
            {"class": explained, "empty": caveat == covering.EMPTY, "caveat": caveat} | areas,
            lines=(caveat,) if caveat else _figures(areas),
            panel=plots.heat_over(seen.pixels, heat_HW.cpu().numpy()),
            caption=f"{request.method} for {printable(explained)}",
            curves=measured,
        )


def _heat_map(subject: Subject, request: Request, layer: layers.MapLayer | None, x_1CHW: Tensor, index: int) -> Tensor:
    if request.method == "occlusion":
        patch, stride = request.patch or covering.PATCH, request.stride or covering.STRIDE
        return occlusion.heat_map(subject, x_1CHW, index, patch=patch, stride=stride)
    assert layer is not None
    return cam.heat_map(request.method, subject, layer, x_1CHW, index)


def _channels(
    subject: Subject, request: Request, layer: layers.MapLayer | None, observer: Observer
) -> Iterator[Explanation]:
    """Draw the strongest channels of each image: as maps over it, or projected back to pixels."""
    assert layer is not None
    for seen in look(subject, request, observer):
        if isinstance(seen, Explanation):
            yield seen
            continue
        found = feature_maps.strongest(subject, layer, seen.x_1CHW, list(request.channels))
        if request.method in deconv.RULES:
            tiles = _projections(request.method, subject, layer, seen.x_1CHW, found)
        else:
            tiles = _maps(seen.pixels, found)
        yield seen.explained(
            {"channels": found.channels, "peaks": [round(peak, 4) for peak in found.peaks]},
            lines=(f"channels {', '.join(map(str, found.channels))}, row by row",),
            panel=plots.mosaic(tiles),
            caption=f"{request.method} of {layer.name}",
        )


def _maps(pixels: Pixels, found: feature_maps.Strongest) -> list[Pixels]:
    large = (faithfulness.enlarge(one, *pixels.shape[:2]).cpu().numpy() for one in found.maps)
    return [plots.heat_over(pixels, one) for one in large]


def _projections(
    rule: str, subject: Subject, layer: layers.MapLayer, x_1CHW: Tensor, found: feature_maps.Strongest
) -> list[Pixels]:
    channels, places = torch.tensor(found.channels), torch.tensor(found.places)
    x_NCHW = x_1CHW.expand(len(channels), -1, -1, -1)
    signals = deconv.project(rule, subject.model, layer, x_NCHW, channels, places)
    return [plots.signed(signal.permute(1, 2, 0).cpu().numpy()) for signal in signals]


def _top_patches(
    subject: Subject, request: Request, layer: layers.MapLayer | None, observer: Observer
) -> Iterator[Explanation]:
    """Draw for each channel the nine patches that excite it most, beside their projections."""
    assert layer is not None
    best = TopPatches()
    with observer.task("searching", len(request.images)):
        numbered, one = enumerate(request.images), partial(read, subject)
        for batch in batches(numbered, one, batch_size=BATCH, workers=request.workers):
            for (_, path), error in batch.failures:
                yield Explanation({"file": str(path), "error": error.reason}, path.stem, None)
            if batch.items:
                x_NCHW = torch.cat([subject.to_input(pixels) for pixels in batch.pixels])
                best.add(batch.items, maps_of(subject, layer, x_NCHW))
            observer.advance(len(batch.items) + len(batch.failures))
    if best.files:
        channels = list(request.channels) or best.strongest_channels()
        with observer.task("projecting", len(channels), "channels"):
            for channel in channels:
                yield _one_channel(subject, layer, best, channel)
                observer.advance(1)


def _one_channel(subject: Subject, layer: layers.MapLayer, best: TopPatches, channel: int) -> Explanation:
    paths = [best.files[number] for number in best.image[channel].tolist()]
    images = [transforms.read_pixels(path, subject.preprocessing) for path in paths]
    x_NCHW = torch.cat([subject.to_input(pixels) for pixels in images])
    channel_N, place_N = torch.full((len(paths),), channel), best.place[channel]
    rule = "deconv" if deconv.has_switches(subject.model) else "guided"
    signals_NCHW = deconv.project(rule, subject.model, layer, x_NCHW, channel_N, place_N)
    signals = signals_NCHW.permute(0, 2, 3, 1).cpu().numpy()
    boxes = deconv.receptive_fields(subject.model, layer, x_NCHW, channel_N, place_N)
    cuts = [(slice(top, bottom), slice(left, right)) for top, left, bottom, right in boxes]
    patches = [pixels[cut] for pixels, cut in zip(images, cuts, strict=True)]
    projections = [plots.signed(signal[cut]) for signal, cut in zip(signals, cuts, strict=True)]
    values = best.value[channel].tolist()
    found = [
        {"file": str(path), "activation": round(value, 4), "box": list(box)}
        for path, value, box in zip(paths, values, boxes, strict=True)
    ]
    side = max(max(bottom - top, right - left) for top, left, bottom, right in boxes)
    row = {"channel": channel, "error": None, "receptive_field": side, "projection": rule, "best": found}
    lines = (f"{layer.name}, channel {channel}", f"activations {values[0]:.3g} to {values[-1]:.3g}, {side} px wide")
    panels = plots.mosaic(patches, _TILE), plots.mosaic(projections, _TILE)
    captions = "top patches", f"their projections ({rule})"
    return Explanation(row, f"channel-{channel}", Drawing(lines, panels, captions))


def _filters(
    subject: Subject, request: Request, layer: layers.MapLayer | None, observer: Observer
) -> Iterator[Explanation]:
    """Draw the kernels of the first convolution, each scaled by itself; zero is grey."""
    name, convolution = layers.first_convolution(subject.model, subject.blank())
    kernels_OIhw = convolution.weight.detach().float().cpu()
    in_colour = kernels_OIhw.shape[1] == 3
    shown = kernels_OIhw if in_colour else kernels_OIhw.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    count, inputs, height, width = kernels_OIhw.shape
    tiles = [plots.signed(kernel.permute(1, 2, 0).numpy()) for kernel in shown]
    row = {"layer": name, "error": None, "filters": count, "inputs": inputs, "height": height, "width": width}
    lines = (f"{subject.name}, {name}: {count} filters of {height} x {width} px",)
    caption = "each scaled by itself; grey is zero" + ("" if in_colour else f"; mean over {inputs} inputs")
    yield Explanation(row, "filters", Drawing(lines, (plots.mosaic(tiles, 8 * max(height, width)),), (caption,)))


METHODS: dict[str, tuple[Draw, bool]] = {
    **dict.fromkeys(cam.METHODS, (_heat_maps, True)),
    "occlusion": (_heat_maps, False),
    "feature-maps": (_channels, True),
    **dict.fromkeys(deconv.RULES, (_channels, True)),
    "top-patches": (_top_patches, True),
    "filters": (_filters, False),
}
"""How each method draws, and whether it looks at a layer that `--layer` chooses."""


def _figures(areas: dict[str, Any]) -> tuple[str, ...]:
    """Say what the curves measured; nothing where they were not asked for."""
    pairs = ((name, areas[name], areas[f"random_{name}"]) for name in ("deletion", "insertion"))
    return tuple(f"{name} {area:z.2f} (random map {random:z.2f})" for name, area, random in pairs if area is not None)

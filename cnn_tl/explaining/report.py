"""The report of `cnn-tl explain`: what was written, and a row for each image, channel or layer."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted


@dataclass(frozen=True)
class Areas:
    """Areas under the curves of faithfulness, about 0..1: deletion is better small, insertion large."""

    deletion: float
    random_deletion: float
    insertion: float
    random_insertion: float


_NO_AREAS = dict.fromkeys(("deletion", "random_deletion", "insertion", "random_insertion"))


@dataclass(frozen=True)
class UnreadableRow:
    """An image that could not be read, and why."""

    file: str
    error: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Prediction:
    """An image and its prediction.

    Attributes:
        true: the class after which the image's folder is named; None if there is no such class.
        label: the predicted class. probability: its probability.
    """

    file: str
    true: str | None
    label: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"file": self.file, "error": None, "true": self.true, **self._answer()}

    def _answer(self) -> dict[str, Any]:
        return {"label": self.label, "probability": self.probability}


@dataclass(frozen=True)
class HeatMapRow(Prediction):
    """The heat map of an image.

    Attributes:
        explained: the class that the map is for.
        empty: whether nothing in the image is evidence for it.
        caveat: why the map must not be trusted; None if there is no reason.
        areas: its faithfulness; None where it was not measured.
    """

    explained: str
    empty: bool
    caveat: str | None
    areas: Areas | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        areas = _NO_AREAS if self.areas is None else asdict(self.areas)
        return super().to_dict() | {"class": self.explained, "empty": self.empty, "caveat": self.caveat} | areas


@dataclass(frozen=True)
class ChannelsRow(Prediction):
    """The strongest channels of a layer for an image, and their peaks."""

    channels: tuple[int, ...]
    peaks: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return super().to_dict() | {"channels": list(self.channels), "peaks": list(self.peaks)}


@dataclass(frozen=True)
class TopPatch:
    """One of the images that activate a channel most: its peak, and the box that it depends on."""

    file: str
    activation: float
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class TopPatchesRow:
    """The images that activate a channel most.

    Attributes:
        receptive_field: the longest side of their boxes in pixels.
        projection: how they are projected to pixels, deconv or guided.
        best: strongest first.
    """

    channel: int
    receptive_field: int
    projection: str
    best: tuple[TopPatch, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        best = [{**asdict(patch), "box": list(patch.box)} for patch in self.best]
        head = {"channel": self.channel, "error": None, "receptive_field": self.receptive_field}
        return {**head, "projection": self.projection, "best": best}


@dataclass(frozen=True)
class FiltersRow:
    """The kernels of the first convolution: its name, how many, of how many input channels, and their size."""

    layer: str
    filters: int
    inputs: int
    height: int
    width: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"layer": self.layer, "error": None, **{k: v for k, v in asdict(self).items() if k != "layer"}}


Row = UnreadableRow | HeatMapRow | ChannelsRow | TopPatchesRow | FiltersRow


@dataclass(frozen=True)
class ExplainReport:
    """What was written where.

    Attributes:
        method, layer: the method, and the layer that it looked at; None for a method without one.
        folder: the folder with the PNGs, the contact sheets and this report as JSON.
        sheets: the file names of the contact sheets.
        rows: one for each image, channel or layer. images: the file name of each row's PNG; None if it has none.
    """

    method: str
    layer: str | None
    folder: Path
    sheets: tuple[str, ...]
    rows: tuple[Row, ...]
    images: tuple[str | None, ...]

    def __repr__(self) -> str:
        """Return such as `<ExplainReport of gradcam: 8 rows in explanations/gradcam>`."""
        return f"<ExplainReport of {self.method}: {counted(len(self.rows), 'row')} in {printable(self.folder)}>"

    def _repr_png_(self) -> bytes | None:
        """Let a notebook show the first contact sheet."""
        path = self.folder / self.sheets[0] if self.sheets else None
        return path.read_bytes() if path is not None and path.is_file() else None

    @property
    def unreadable(self) -> int:
        """How many images could not be read."""
        return sum(isinstance(row, UnreadableRow) for row in self.rows)

    def better_than_random(self, curve: Literal["deletion", "insertion"]) -> tuple[int, int]:
        """Return for how many images the area is better than that of random maps, and how many were measured."""
        measured = [row.areas for row in self.rows if isinstance(row, HeatMapRow) and row.areas is not None]
        if curve == "deletion":
            return sum(areas.deletion < areas.random_deletion for areas in measured), len(measured)
        return sum(areas.insertion > areas.random_insertion for areas in measured), len(measured)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        facts = {"method": self.method, "layer": self.layer, "folder": str(self.folder), "sheets": list(self.sheets)}
        rows = [{**row.to_dict(), "image": image} for row, image in zip(self.rows, self.images, strict=True)]
        return {**facts, "rows": rows}

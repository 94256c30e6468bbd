"""What a recommendation says: a row for each backbone, what was left out, and the choice with its reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cnn_tl.advising.recommend.candidates import Candidate


@dataclass(frozen=True)
class BackboneRow:
    """One backbone at one image size.

    Attributes:
        candidate: how `train` chooses it.
        image_size: side of its images in pixels.
        images: how many images it was judged on.
        accuracy: of a head on its features, cross-validated. interval: of 95%.
        difference: of its accuracy from that of the most accurate one, on the same images; 0 for that one.
        difference_interval: of 95%; None for the most accurate one.
        as_good: whether it cannot be told apart from the most accurate one.
        images_per_second: of the network on this machine, without decoding.
        bytes, parameters: of the network with a linear head.
        train_seconds: what a run on all images would take here now. cached: the share of its features that is cached.
        on_front: no other one is at least as accurate, fast and small, and better in one of these.
    """

    candidate: Candidate
    image_size: int
    images: int
    accuracy: float
    interval: tuple[float, float]
    difference: float
    difference_interval: tuple[float, float] | None
    as_good: bool
    images_per_second: float
    bytes: int
    parameters: int
    train_seconds: float
    cached: float
    on_front: bool

    @property
    def model(self) -> str:
        """The model's name in timm."""
        return self.candidate.model


@dataclass(frozen=True)
class SkippedBackbone:
    """One that was not compared, and why."""

    candidate: Candidate
    reason: str


@dataclass(frozen=True)
class Recommendation:
    """Which backbone to take.

    Attributes:
        data: the folder, printable.
        rows: the most accurate first.
        chosen: the recommended one. reason: why, in one sentence.
        skipped: what was not compared.
        images: of the largest sample. total: training images that could have been sampled. classes: their number.
        out_of_time: whether more images would have been used, had there been time.
        folds, repeats: of the cross-validation. head: the kind that was fitted.
        device: where the networks ran, in words.
        seconds: how long it took. budget: how long it might have taken.
    """

    data: str
    rows: tuple[BackboneRow, ...]
    chosen: BackboneRow
    reason: str
    skipped: tuple[SkippedBackbone, ...]
    images: int
    total: int
    classes: int
    out_of_time: bool
    folds: int
    repeats: int
    head: str
    device: str
    seconds: float
    budget: float

    @property
    def model(self) -> str:
        """The recommended model."""
        return self.chosen.model

    @property
    def settings(self) -> dict[str, Any]:
        """The keywords of `cnn_tl.train` that choose it."""
        return self.chosen.candidate.settings

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        rows = [_flat(row) | {"recommended": row is self.chosen} for row in self.rows]
        skipped = [asdict(one.candidate) | {"reason": one.reason} for one in self.skipped]
        return asdict(self) | {"rows": rows, "chosen": _flat(self.chosen), "skipped": skipped}


def _flat(row: BackboneRow) -> dict[str, Any]:
    about = asdict(row)
    candidate = about.pop("candidate")
    return {
        "model": candidate["model"],
        "weights": candidate["weights"],
        "given_size": candidate["image_size"],
        **about,
    }

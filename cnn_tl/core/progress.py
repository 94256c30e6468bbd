"""How long-running work reports its progress: the library calls an `Observer`, the command line shows it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

MOST_NAMED = 10
"""The most images that are named in warnings."""


@dataclass(frozen=True)
class FeaturePlan:
    """Features to compute, or images to decode: how many are new, how many cached, and the bytes of the new ones."""

    computed: int
    from_cache: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What a training run is about to do.

    Attributes:
        mode: freeze, finetune or scratch.
        data: the folder, printable.
        layout: how it was interpreted, in words.
        counts: images per class and split, `counts[class][split]`.
        set_aside: broken images found so far.
        backbone: timm's name.
        weights: their source, in words.
        image_size: height and width in pixels.
        trainable, total: parameters.
        device, precision: where and in which precision the part that trains runs.
        schedule: epochs, steps, batch size and learning rate, in words.
        phases: what trains in which epochs, in words; None if that does not change.
        features: in mode freeze, the features to compute; None in other modes.
        images: in a training loop, the images to decode; None if each is decoded whenever it is used.
        sources: where views are drawn on the device, and where the images for them lie, in words; None if threads draw.
        seconds: the expected duration of the whole run, including loading torch, by measurements on this machine.
        output: the run folder, printable.
        corrections: how many images are excluded, relabelled and in groups; None: none.
    """

    mode: str
    data: str
    layout: str
    counts: Mapping[str, Mapping[Any, int]]
    set_aside: int
    backbone: str
    weights: str
    image_size: tuple[int, int]
    trainable: int
    total: int
    device: str
    precision: str
    schedule: str
    phases: str | None
    features: FeaturePlan | None
    images: FeaturePlan | None
    sources: str | None
    seconds: float
    output: str
    corrections: Mapping[str, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


class Observer:
    """Receives progress events and shows nothing; a subclass overrides the methods for what it shows."""

    def plan(self, plan: Plan) -> None:
        """Called once, before the run starts, with what it is about to do."""

    def note(self, text: str) -> None:
        """Called with information for the user."""

    def warn(self, text: str) -> None:
        """Called with a warning that the user should act on."""

    def start(self, task: str, total: int | None, unit: str = "images") -> None:
        """Called when a task of `total` units starts; None: the number is unknown. `unit` is a plural."""

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        """Called when `done` more units are finished; `figures`, such as the loss, are shown beside the bar."""

    def finish(self) -> None:
        """Called when the task that was started last has ended, successfully or not."""

    def epoch(self, figures: Mapping[str, float]) -> None:
        """Called at the end of an epoch: epoch, epochs, loss, val_accuracy, images_per_second."""

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "images") -> Iterator[None]:
        """Call `start` before the block and `finish` after it."""
        self.start(name, total, unit)
        try:
            yield
        finally:
            self.finish()


class Relay(Observer):
    """Passes everything on to another observer; a subclass overrides what it keeps back."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def plan(self, plan: Plan) -> None:
        """Pass it on."""
        self._observer.plan(plan)

    def note(self, text: str) -> None:
        """Pass it on."""
        self._observer.note(text)

    def warn(self, text: str) -> None:
        """Pass it on."""
        self._observer.warn(text)

    def start(self, task: str, total: int | None, unit: str = "images") -> None:
        """Pass it on."""
        self._observer.start(task, total, unit)

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        """Pass it on."""
        self._observer.advance(done, figures)

    def finish(self) -> None:
        """Pass it on."""
        self._observer.finish()

    def epoch(self, figures: Mapping[str, float]) -> None:
        """Pass it on."""
        self._observer.epoch(figures)


def warn_of_set_aside(observer: Observer, broken: Sequence[str]) -> None:
    """Warn of the images that are set aside: of each of the first ones, then of the number of others."""
    for text in broken[:MOST_NAMED]:
        observer.warn(f"set aside: {text}")
    if len(broken) > MOST_NAMED:
        observer.warn(f"set aside: {len(broken) - MOST_NAMED:,} more; manifest.json in the run folder lists all")

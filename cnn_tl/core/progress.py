"""What a long piece of work tells whoever watches it. The library speaks; the command line shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

MOST_NAMED = 10
"""Images that are named one by one."""


@dataclass(frozen=True)
class FeaturePlan:
    """How many features are computed and how many come from the cache; what the new ones take there, in bytes.

    Of images: how many are decoded, and how many come from the cache.
    """

    computed: int
    from_cache: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What a training run is about to do.

    Attributes:
        mode: freeze, finetune or scratch.
        data: the folder, printable.
        layout: how it was read, in words.
        counts: images per class and split, `counts[class][split]`.
        set_aside: broken images found so far.
        backbone: timm's name.
        weights: where the weights come from, in words.
        image_size: height and width in pixels.
        trainable, total: parameters.
        device, precision: where and in which number format the training part runs.
        schedule: epochs, steps, batch size and learning rate, in words.
        phases: what trains in which epochs, in words; None where that does not change.
        features: in mode freeze, how many are computed, and kept in how many bytes; how many come from the cache.
        images: in a training loop, the same of images; None where each is decoded whenever it is used.
        seconds: the expected duration of the whole run, loading torch included, from what was measured on this machine.
        output: the run folder, printable.
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
    seconds: float
    output: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


class Observer:
    """Hears of everything and shows nothing; a subclass overrides what it wants to show."""

    def plan(self, plan: Plan) -> None:
        """What is about to happen, once, before it starts."""

    def note(self, text: str) -> None:
        """A remark worth reading."""

    def warn(self, text: str) -> None:
        """Something that the user should look at."""

    def start(self, task: str, total: int | None, unit: str = "images") -> None:
        """A task of `total` images begins (None: it cannot be counted), or of what else `unit` names, in the plural."""

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        """`done` more images (or what the task counts) are through; `figures`, such as the loss, stand by the bar."""

    def finish(self) -> None:
        """The task that was started last has ended, well or not."""

    def epoch(self, figures: Mapping[str, float]) -> None:
        """An epoch has ended: epoch, epochs, loss, val_accuracy, images_per_second."""

    @contextmanager
    def task(self, name: str, total: int | None, unit: str = "images") -> Iterator[None]:
        """Bracket a task with `start` and `finish`."""
        self.start(name, total, unit)
        try:
            yield
        finally:
            self.finish()


def warn_of_set_aside(observer: Observer, broken: Sequence[str]) -> None:
    """Name the images that are set aside, up to a number that a person reads."""
    for text in broken[:MOST_NAMED]:
        observer.warn(f"set aside: {text}")
    if len(broken) > MOST_NAMED:
        observer.warn(f"set aside: {len(broken) - MOST_NAMED:,} more; manifest.json in the run folder lists all")

"""Validation images are read once, and then lie on the device, if there is room for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import pytest
import torch
from synthetic_sources import dataset, record

from cnn_tl.core.errors import BadImageError, DataError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.loader import Batch
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.features.engine import DeviceBatch
from cnn_tl.training.sources import plain
from cnn_tl.training.sources.plain import HeldImages

SPEC = Preprocessing(8, 8, "bicubic", 0.875, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CPU = torch.device("cpu")


class Dataset:
    """Its images have a plain view in the colour of their number; `reads` counts how often they are read."""

    def __init__(self) -> None:
        self.images = [record(number) for number in range(10)]
        self.run = dataset(None)[0].run
        self.reads = 0
        self.broken: list[ImageRecord] = []

    def read_plain(self, groups: Sequence[Sequence[ImageRecord]]) -> Iterator[Batch[ImageRecord]]:
        for group in groups:
            self.reads += len(group)
            pixels = [np.full((8, 8, 3), int(image.sha256, 16), np.uint8) for image in group]
            yield Batch(list(group), pixels, [(image, BadImageError("x.png", "gone")) for image in self.broken])


def colours(batches: Iterator[Any]) -> list[list[int]]:
    return [[int(image[0, 0, 0]) for image in batch.pixels] for batch in batches]


@pytest.mark.parametrize("room", [10 * 8 * 8 * 3, 10 * 8 * 8 * 3 - 1])
def test_images_are_read_once_if_there_is_room(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr(plain, "HOLDING", ("cpu",))
    monkeypatch.setattr(plain, "most_on_device", lambda device, world, share: room)
    found = Dataset()
    held = HeldImages(cast(Any, found), SPEC, CPU)
    images = found.images
    for _ in range(3):
        assert colours(held.read([images[:4], images[4:]])) == [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
    assert found.reads == (10 if room == 10 * 8 * 8 * 3 else 30)
    assert colours(held.read([images[2:4]])) == [[2, 3]], "others are not those that are held"


def test_a_cpu_holds_none() -> None:
    found = Dataset()
    held = HeldImages(cast(Any, found), SPEC, CPU)
    for _ in range(2):
        assert not [one for one in held.read([found.images]) if isinstance(one, DeviceBatch)]
    assert found.reads == 20


def test_a_reading_that_ended_early_is_not_taken_for_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "HOLDING", ("cpu",))
    found = Dataset()
    held = HeldImages(cast(Any, found), SPEC, CPU)
    groups = [found.images[:5], found.images[5:]]
    reading = held.read(groups)
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert len(colours(held.read(groups))) == 2
    found.broken = found.images[:1]
    with pytest.raises(DataError, match=r"x\.png: gone; it could be read when the run began"):
        list(HeldImages(cast(Any, found), SPEC, CPU).read(groups))

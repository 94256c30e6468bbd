"""What is there is read by threads, and what is lacking is decoded by processes, in the order of the steps."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from synthetic_sources import same, unpacked

from cnn_tl.core.errors import DataError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.data.reading import ahead, pool
from cnn_tl.data.reading.jobs import ImageFile
from cnn_tl.data.views.augment import Augmentation
from cnn_tl.training.image_store import ImageStore
from cnn_tl.training.sources.sources import Streamed
from cnn_tl.training.sources.staging import Pixels, Staging

SPEC = Preprocessing(32, 32, "bicubic", 0.9, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture
def images(tmp_path: Path) -> list[ImageRecord]:
    chance, found = np.random.default_rng(0), []
    for number in range(20):
        path = tmp_path / f"{number}.png"
        Image.fromarray(chance.integers(0, 256, (*chance.integers(5, 90, 2), 3), np.uint8)).save(path)
        now = path.stat()
        found.append(ImageRecord(path.name, 0, "train", now.st_size, now.st_mtime_ns, f"{number:064x}"))
    return found


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageStore:
    monkeypatch.setattr(ahead, "PROCESSES_FROM", 1)
    monkeypatch.setattr(ahead, "IMAGES_EACH", 1)
    settings = Augmentation(0.5, flip=True, color=0)
    return ImageStore(SPEC, settings, lambda image: ImageFile(tmp_path / image.path, image))


def steps_of(streamed: Streamed, groups: list[list[ImageRecord]]) -> list[list[Pixels]]:
    with streamed.steps(groups) as steps:
        return [unpacked(step) for step in steps]


@pytest.mark.parametrize(("decode", "present"), [(False, 0), (False, 7), (False, 17), (True, 7), (False, 20)])
def test_steps_are_the_same_whoever_decodes(
    images: list[ImageRecord], store: ImageStore, monkeypatch: pytest.MonkeyPatch, decode: bool, present: int
) -> None:
    groups = [images[:1], images[3:13], [images[2], images[2], images[19]], images[::3]]
    expected = [[store.source(image) for image in group] for group in groups]
    read: list[ImageRecord] = []
    by_threads = ImageStore.decode

    def decode_here(self: ImageStore, image: ImageRecord, kind: str) -> Pixels:
        read.append(image)
        return by_threads(self, image, kind)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageStore, "decode", decode_here)
    monkeypatch.setattr(store, "lacking_sources", lambda wanted: set(wanted) - set(images[:present]))
    with pool.pools_kept():
        found = steps_of(Streamed(store, 2, Staging(torch.device("cpu")), decode=decode), groups)
        pools = list(pool._shared.pools)
    assert all(map(same, found, expected))
    assert pools == ([] if present == 20 else [2])
    assert set(read) == (set() if decode else set(images[:present]).intersection(chain.from_iterable(groups)))


def test_an_image_that_can_no_longer_be_read_ends_the_run(images: list[ImageRecord], store: ImageStore) -> None:
    file = store.job(images[5], "source").file.path  # type: ignore[attr-defined]
    times = file.stat().st_mtime_ns
    file.write_bytes(b"x" * images[5].bytes)
    os.utime(file, ns=(times, times))
    with (
        Streamed(store, 2, Staging(torch.device("cpu"))).steps([images[:4], images[4:8]]) as steps,
        pytest.raises(DataError, match=r"5\.png: .*; it could be read when"),
    ):
        assert len(list(steps)) == 0

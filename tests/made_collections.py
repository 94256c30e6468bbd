"""Collections made of random numbers: what screens of a doctor examine, without files or a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.data.manifest import ImageRecord, Split
from cnn_tl.doctor.collection import Collection
from cnn_tl.doctor.headers import Header
from cnn_tl.doctor.measures import measure


@dataclass
class Made:
    """Images of noise in random light, equally many of each class, as arrays to change before `collection`.

    Features: class centres with noise, non-negative, as after a ReLU.
    """

    classes: Sequence[str] = ("a", "b")
    each: int = 60
    seed: int = 0
    labels: NDArray[np.int64] = field(init=False)
    features: NDArray[np.float32] = field(init=False)
    thumbnails: NDArray[np.uint8] = field(init=False)
    headers: list[Header] = field(init=False)
    splits: list[Split] = field(init=False)
    files: list[str] = field(init=False)
    bytes: list[int] = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        count = len(self.classes) * self.each
        self.labels = np.repeat(np.arange(len(self.classes)), self.each)
        centres = random.gamma(1.0, 1.0, (len(self.classes), 64))
        self.features = (centres[self.labels] * random.gamma(2.0, 0.5, (count, 64))).astype(np.float32)
        light = random.normal(110, 25, (count, 1, 1, 1)).clip(50, 180)
        noise = random.normal(0, random.uniform(22, 40, (count, 1, 1, 1)), (count, 16, 16, 3)).repeat(4, 1).repeat(4, 2)
        self.thumbnails = (light + noise).clip(0, 255).astype(np.uint8)
        self.headers = [Header(400, 300, "JPEG", "RGB", 85)] * count
        self.splits = ["train" if at % 5 else "val" for at in range(count)]
        names = [self.classes[label] for label in self.labels]
        numbers = random.permutation(count)
        self.files = [f"{name}/{number:05}.jpg" for name, number in zip(names, numbers, strict=True)]
        self.bytes = random.integers(20_000, 40_000, count).tolist()

    def collection(self) -> Collection:
        """Return the collection; the measures are those of the thumbnails."""
        return Collection(
            root=Path("made"),
            classes=tuple(self.classes),
            images=tuple(
                ImageRecord(path, int(label), split, size, 0, f"{at:064x}")
                for at, (path, label, split, size) in enumerate(
                    zip(self.files, self.labels, self.splits, self.bytes, strict=True)
                )
            ),
            features=self.features,
            thumbnails=self.thumbnails,
            headers=tuple(self.headers),
            measures=np.stack([measure(Image.fromarray(one), 64) for one in self.thumbnails]),
            view_of=lambda images: (self.features[: len(images)], self.thumbnails[: len(images)]),
        )

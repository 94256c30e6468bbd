"""The sample: stratified, growing without losing an image, and without copies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cnn_tl.advising.recommend.sample import sample_of
from cnn_tl.data.manifest import ImageRecord


def images(counts: Sequence[int]) -> list[ImageRecord]:
    return [
        ImageRecord(f"train/{label}/{number}.jpg", label, "train", 1, 0, f"{label:032}{number:032}")
        for label, count in enumerate(counts)
        for number in range(count)
    ]


def test_classes_keep_their_shares() -> None:
    found = sample_of(images([600, 300, 100]), 3, 0).first(100)
    assert Counter(image.label for image in found) == {0: 60, 1: 30, 2: 10}


def test_rare_classes_keep_two_images() -> None:
    found = sample_of(images([1000, 5, 1]), 3, 0).first(100)
    assert Counter(image.label for image in found) == {0: 100, 1: 2, 2: 1}


def test_a_larger_sample_holds_the_smaller_one() -> None:
    sample = sample_of(images([500, 77]), 2, 0)
    smaller, larger = set(sample.first(100)), set(sample.first(150))
    assert smaller < larger
    assert len(sample.first(10_000)) == len(sample) == 577


def test_the_seed_chooses() -> None:
    many = images([500])
    assert sample_of(many, 1, 0).first(50) == sample_of(list(reversed(many)), 1, 0).first(50)
    assert sample_of(many, 1, 0).first(50) != sample_of(many, 1, 1).first(50)


def test_equal_files_come_once() -> None:
    twice = [*images([20]), ImageRecord("train/0/copy.jpg", 0, "train", 1, 0, images([20])[3].sha256)]
    assert len(sample_of(twice, 1, 0)) == 20

"""The validation split: whole groups, near the fraction, and without groups as it always was."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import replace

import pytest

from cnn_tl.core.errors import DataError
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.data.validation_split import split_off_val


def image(name: str, label: int, *, content: str = "", group: str = "") -> ImageRecord:
    sha256 = hashlib.sha256((content or name).encode()).hexdigest()
    return ImageRecord(name, label, "train", 10, 1, sha256, group)


def split(images: list[ImageRecord], classes: int, fraction: float = 0.2, seed: int = 0) -> list[ImageRecord]:
    return split_off_val(images, [f"class{k}" for k in range(classes)], val_fraction=fraction, seed=seed)


def by_digest_alone(images: list[ImageRecord], classes: int, fraction: float, seed: int) -> set[str]:
    """Return the paths in val by the rule for images without groups: in each class the first by a salted digest."""
    contents = [{one.sha256 for one in images if one.label == label} for label in range(classes)]
    found = Counter(sha256 for own in contents for sha256 in own)
    chosen = set()
    for label, own in enumerate(contents):
        single = [sha256 for sha256 in own if found[sha256] == 1]
        count = min(max(round(len(single) * fraction), 1), len(single) - 1)
        order = sorted(single, key=lambda sha256: hashlib.sha256(f"{seed}:{sha256}".encode()).digest())
        chosen |= {(label, sha256) for sha256 in order[:count]}
    return {one.path for one in images if (one.label, one.sha256) in chosen}


@pytest.mark.parametrize("seed", range(40))
def test_without_groups_the_split_is_that_by_digests(seed: int) -> None:
    chance = random.Random(seed)
    classes, fraction = chance.randrange(2, 7), chance.uniform(0.01, 0.5)
    images = [image(f"{k}/{n}", k) for k in range(classes) for n in range(chance.randrange(2, 60))]
    for one in chance.sample(images, len(images) // 4):  # copies in the same class and in others
        label = one.label if chance.random() < 0.8 else chance.randrange(classes)
        images.append(image(f"{label}/copy of {one.path}", label, content=one.path))
    try:
        expected = by_digest_alone(images, classes, fraction, seed)
        found = split(images, classes, fraction, seed)
    except DataError:
        singles = [{one.sha256 for one in images if one.label == k} for k in range(classes)]
        shared = Counter(sha256 for own in singles for sha256 in own)
        assert any(sum(shared[sha256] == 1 for sha256 in own) < 2 for own in singles)
        return
    assert {one.path for one in found if one.split == "val"} == expected
    assert [replace(one, split="train") for one in found] == images


@pytest.mark.parametrize("seed", range(60))
def test_no_group_is_in_both_splits(seed: int) -> None:
    chance = random.Random(seed)
    classes, fraction = chance.randrange(2, 6), chance.choice([0.1, 0.2, 0.4])
    mixed = seed % 3 == 0
    images = []
    for k in range(classes):
        for n in range(chance.randrange(20, 80)):
            number = chance.randrange(30)
            group = "" if chance.random() < 0.2 else f"{number}" if mixed else f"{k}-{number}"
            images.append(image(f"{k}/{n}", k, group=group))
    found = split(images, classes, fraction, seed)
    splits: dict[str, set[str]] = {}
    for one in found:
        splits.setdefault(one.group or one.path, set()).add(one.split)
    assert all(len(own) == 1 for own in splits.values())
    sizes = Counter(one.group or one.path for one in images)
    for k in range(classes):
        own = Counter(one.split for one in found if one.label == k)
        assert own["train"] >= 1
        assert own["val"] >= 1
        if not mixed:  # a greedy choice comes as near as half of the largest group
            assert abs(own["val"] - fraction * own.total()) <= max(sizes.values()) / 2 + 1
    assert found == split(images, classes, fraction, seed)


@pytest.mark.parametrize("seed", range(10))
def test_groups_of_all_classes_stay_near_the_fraction(seed: int) -> None:
    """As patients, each with images of every class."""
    chance = random.Random(seed)
    images = [image(f"{k}/{n}", k, group=f"patient {chance.randrange(25)}") for k in range(3) for n in range(200)]
    for k in range(3):
        val = sum(one.split == "val" for one in split(images, 3, 0.2, seed) if one.label == k)
        assert 20 <= val <= 60


def test_other_seeds_choose_other_groups() -> None:
    images = [image(f"{k}/{n}", k, group=f"{k}-{n // 4}") for k in range(2) for n in range(40)]
    chosen = {frozenset(one.group for one in split(images, 2, seed=seed) if one.split == "val") for seed in range(10)}
    assert len(chosen) > 5


def test_a_group_with_a_conflict_is_never_validated_on() -> None:
    images = [image(f"{k}/{n}", k, group=f"{k}-{n // 2}") for k in range(2) for n in range(10)]
    images += [image("0/copy", 0, content="1/0", group="1-0")]
    for seed in range(10):
        assert "1-0" not in {one.group for one in split(images, 2, 0.4, seed) if one.split == "val"}


def test_a_class_that_is_one_group_is_refused() -> None:
    images = [image(f"0/{n}", 0, group="film") for n in range(8)] + [image(f"1/{n}", 1) for n in range(8)]
    with pytest.raises(DataError, match=r"the 8 images of class class0 are all in one group \(film\)"):
        split(images, 2)


def test_groups_that_leave_no_choice_are_refused() -> None:
    """Three groups, each of two of the three classes: whichever is in val, a class has no image somewhere."""
    pairs = {"x": (0, 1), "y": (1, 2), "z": (0, 2)}
    images = [image(f"{k}/{group}{n}", k, group=group) for group, both in pairs.items() for k in both for n in range(3)]
    with pytest.raises(DataError, match="leave no way to keep each whole"):
        split(images, 3)
    assert len({one.split for one in split([*images, image("0/a", 0), image("0/b", 0)], 3)}) == 2

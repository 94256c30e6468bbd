from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cnn_tl.core.errors import ArtefactError, DataError
from cnn_tl.data.manifest import ImageRecord, Manifest, SetAside, Split, verify_file
from cnn_tl.data.manifest_changes import changes


def image(path: str, label: int = 0, split: Split = "train") -> ImageRecord:
    sha256 = hashlib.sha256(ascii(path).encode()).hexdigest()
    return ImageRecord(path, label, split, 10, 123, sha256)


CAT, DOG, DOG2 = image("train/cat/1.jpg"), image("train/dog/1.jpg", 1), image("train/dog/2.jpg", 1)
VAL_CAT, VAL_DOG = image("val/cat/3.jpg", 0, "val"), image("val/dog/4.jpg", 1, "val")
IMAGES = (CAT, DOG, DOG2, VAL_CAT, VAL_DOG)
GOOD = Manifest(Path("/data"), ("cat", "dog"), IMAGES, notes=("a note",), layout="train + val")


def test_counts_and_parts() -> None:
    assert GOOD.of("val") == (VAL_CAT, VAL_DOG)
    assert GOOD.of("test") == ()
    assert GOOD.file(CAT) == Path("/data/train/cat/1.jpg")
    assert GOOD.counts() == {
        "cat": {"train": 1, "val": 1, "test": 0},
        "dog": {"train": 2, "val": 1, "test": 0},
    }


def test_baseline_is_the_largest_training_class() -> None:
    assert GOOD.baseline_accuracy() == 0.5
    more_cats = replace(GOOD, images=(*GOOD.images, image("val/cat/5.jpg", 0, "val")))
    assert more_cats.baseline_accuracy() == pytest.approx(1 / 3)


def test_of_classes_that_are_as_frequent_the_first_is_the_majority() -> None:
    assert replace(GOOD, images=(DOG, CAT, VAL_CAT, VAL_DOG)).largest_class() == "cat"


def test_broken_images_move_aside() -> None:
    less = GOOD.without([(DOG, "truncated JPEG")])
    assert less.images == (CAT, DOG2, VAL_CAT, VAL_DOG)
    assert less.set_aside == (SetAside("train/dog/1.jpg", "train", DOG.sha256, "truncated JPEG"),)
    less.check()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ([CAT], "class cat in /data has no usable training image"),
        ([VAL_CAT, VAL_DOG], "no usable validation image"),
        ([DOG, DOG2, VAL_CAT], "3 of 5 images in /data cannot be read; the first is train/dog/1.jpg: bad"),
    ],
)
def test_check_refuses_what_nothing_can_be_learned_from(broken: list[ImageRecord], message: str) -> None:
    GOOD.check()
    with pytest.raises(DataError, match=message):
        GOOD.without([(one, "bad") for one in broken]).check()


def test_verify(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"0123456789")
    facts = path.stat()
    scanned = ImageRecord("a.jpg", 0, "train", 10, facts.st_mtime_ns, hashlib.sha256(b"0123456789").hexdigest())
    manifest = Manifest(tmp_path, ("a", "b"), (scanned,))
    verify_file(manifest.file(scanned), scanned)
    os.utime(path, ns=(0, 0))
    verify_file(manifest.file(scanned), scanned)  # a new time with the same bytes is no change
    path.write_bytes(b"9876543210")
    os.utime(path, ns=(1, 1))
    with pytest.raises(DataError, match=r"a\.jpg changed since"):
        verify_file(manifest.file(scanned), scanned)
    path.write_bytes(b"longer than it was")
    with pytest.raises(DataError, match=r"a\.jpg changed since"):
        verify_file(manifest.file(scanned), scanned)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.jpg was there at the start"):
        verify_file(manifest.file(scanned), scanned)


def test_json_round_trip() -> None:
    odd = image("train/cat/line\nbreak \udcff.jpg")
    manifest = replace(GOOD, images=(*GOOD.images, odd)).without([(DOG, "truncated JPEG")])
    assert Manifest.from_json(json.loads(json.dumps(manifest.to_json()))) == manifest


def damaged(**changes: Any) -> dict[str, Any]:
    return {**GOOD.to_json(), **changes}


ROW = [*GOOD.to_json()["images"][0]]


@pytest.mark.parametrize(
    "values",
    [
        None,
        [],
        {},
        damaged(root=None),
        damaged(classes=[1, 2]),
        damaged(images=[["short"]]),
        damaged(images=[["../outside.jpg", *ROW[1:]]]),
        damaged(images=[["/etc/passwd", *ROW[1:]]]),
        damaged(images=[[ROW[0], 2, *ROW[2:]]]),
        damaged(images=[[ROW[0], True, *ROW[2:]]]),
        damaged(images=[[*ROW[:2], "training", *ROW[3:]]]),
        damaged(images=[[*ROW[:5], "abc"]]),
        damaged(image_fields=["path"]),
        damaged(set_aside=[{"path": "a"}]),
        damaged(notes=[1]),
        damaged(layout=1),
    ],
)
def test_damaged_json_is_refused(values: Any) -> None:
    with pytest.raises(ArtefactError, match="the manifest is damaged"):
        Manifest.from_json(values)


def test_the_largest_class_is_that_of_the_training_part() -> None:
    assert GOOD.largest_class() == "dog"
    assert GOOD.baseline_accuracy() == 0.5


@pytest.mark.parametrize(
    ("images", "lines"),
    [
        (IMAGES, []),
        ((replace(CAT, mtime_ns=9), DOG, DOG2, VAL_CAT, VAL_DOG), []),
        ((DOG, DOG2, VAL_CAT, VAL_DOG), ["removed: train/cat/1.jpg"]),
        ((*IMAGES, image("train/cat/9.jpg")), ["added: train/cat/9.jpg"]),
        ((replace(CAT, sha256="0" * 64), DOG, DOG2, VAL_CAT, VAL_DOG), ["changed: train/cat/1.jpg"]),
        (
            (replace(CAT, path="train/dog/1b.jpg", label=1), DOG, DOG2, VAL_CAT, VAL_DOG),
            ["moved: train/cat/1.jpg -> train/dog/1b.jpg"],
        ),
        (
            (replace(CAT, split="val"), DOG, DOG2, VAL_CAT, VAL_DOG),
            ["moved from train to val: train/cat/1.jpg"],
        ),
    ],
)
def test_diff(images: tuple[ImageRecord, ...], lines: list[str]) -> None:
    assert changes(GOOD, replace(GOOD, root=Path("/else"), images=images)) == lines


def test_a_image_set_aside_later_is_no_difference() -> None:
    assert changes(GOOD.without([(DOG, "truncated JPEG")]), GOOD) == []
    repaired = replace(GOOD, images=(CAT, replace(DOG, sha256="1" * 64), DOG2, VAL_CAT, VAL_DOG))
    assert changes(GOOD.without([(DOG, "truncated JPEG")]), repaired) == ["changed: train/dog/1.jpg"]

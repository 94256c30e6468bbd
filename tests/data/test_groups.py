from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from cnn_tl.core.errors import DataError
from cnn_tl.data.groups import group_numbers, grouped, groups_by_pattern, groups_in_file, keep_apart
from cnn_tl.data.manifest import SPLITS, ImageRecord, Split


def image(path: str, split: Split = "train", content: str = "", group: str = "") -> ImageRecord:
    return ImageRecord(path, 0, split, 10, 1, hashlib.sha256((content or path).encode()).hexdigest(), group)


def file(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "groups.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_pattern_names_groups_by_its_first_group_or_the_whole_match() -> None:
    below = {"cats/p1/a.jpg": "p1/a.jpg", "cats/p1/b.jpg": "p1/b.jpg", "dogs/p2/cats1.jpg": "p2/cats1.jpg", "x/y": "y"}
    assert groups_by_pattern(r"p\d", below) == {"cats/p1/a.jpg": "p1", "cats/p1/b.jpg": "p1", "dogs/p2/cats1.jpg": "p2"}
    assert set(groups_by_pattern(r"p(\d)/", below).values()) == {"1", "2"}
    assert groups_by_pattern(r"cats", below) == {"dogs/p2/cats1.jpg": "cats"}, "the class folder is not searched"
    assert groups_by_pattern(r"p(2)?", below) == {"dogs/p2/cats1.jpg": "2"}, "an empty name is none"
    with pytest.raises(DataError, match=r"nothing matches no image.*such as p1/a.jpg"):
        groups_by_pattern("nothing", below)


def test_the_columns_of_a_file(tmp_path: Path) -> None:
    text = "\ufeffgroup,image,note\r\n7,a.jpg,x\r\n8,b.jpg,\r\n7,a.jpg,again\r\n"
    assert groups_in_file(file(tmp_path, text)) == {"a.jpg": "7", "b.jpg": "8"}


def test_verified_pairs_of_twins_are_joined(tmp_path: Path) -> None:
    rows = ["image_a,image_b,split_a,split_b,kind,score,group,verified", "a,b,train,val,crop,0.9,1,true",
            "c,d,train,val,crop,0.9,2,True", "b,c,train,val,crop,0.9,1,1", "e,f,train,val,crop,0.2,,false",
            "d,e,train,val,crop,0.2,,no"]  # fmt: skip
    found = groups_in_file(file(tmp_path, "\n".join(rows)))
    assert found == dict.fromkeys("abcd", "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("image,patient\na,1\n", "has no column group"),
        ("image_a,image_b\na,b\n", "has no column verified"),
        ("image_a,image_b,verified\na,b,perhaps\n", "line 2: verified is perhaps, not true or false"),
        ("image,group\na,1\nb,1\na,2\n", "line 4 has a in group 2, and line 2 in group 1"),
        ("image,group\na,\n", "line 2 has no group"),
        (b"image,group\n\xe9,1\n", "is not UTF-8"),
    ],
)
def test_faults_of_a_file(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        groups_in_file(file(tmp_path, content))
    with pytest.raises(DataError, match="is a folder"):
        groups_in_file(tmp_path)


def test_equal_files_join_groups_and_single_images_are_in_none() -> None:
    images = [image("a", content="x"), image("b"), image("c", content="x"), image("d"), image("e", content="y"),
              image("f", content="y"), image("g")]  # fmt: skip
    found = grouped(images, {"a": "2", "b": "2", "c": "1", "g": "9", "not there": "9"})
    assert [one.group for one in found] == ["1", "1", "1", "", "copies of e", "copies of e", ""]
    np.testing.assert_array_equal(group_numbers(found), [0, 0, 0, 1, 2, 2, 3])
    assert group_numbers(images) is None


@pytest.mark.parametrize("seed", range(40))
def test_no_group_crosses_splits_and_the_later_split_keeps_its_images(seed: int) -> None:
    chance = random.Random(seed)
    images = [image(f"{n}", chance.choice(SPLITS), f"{chance.randrange(150)}") for n in range(200)]
    named = {one.path: f"{chance.randrange(40)}" for one in images if chance.random() < 0.5}
    found = grouped(images, named)
    assert [one.path for one in found] == [one.path for one in images]
    again = grouped(images, {one.path: one.group for one in found if one.group})
    assert again == found, "groups that were stored are read as they are"
    apart = keep_apart(found)
    assert sorted(one.path for one in (*apart.images, *apart.kept_apart)) == sorted(one.path for one in images)
    splits: dict[str, set[str]] = {}
    for one in apart.images:
        for name in (f"group {named.get(one.path, f'of {one.path}')}", f"content {one.sha256}"):
            splits.setdefault(name, set()).add(one.split)
    assert all(len(own) == 1 for own in splits.values())
    for one in apart.kept_apart:
        assert any(SPLITS.index(other.split) > SPLITS.index(one.split) and other.group == one.group for other in found)
    assert bool(apart.kept_apart) == bool(apart.notes)


def test_what_is_left_out_is_told_with_an_example() -> None:
    groups = {"train/a": "1", "val/b": "1", "train/c": "2", "train/d": "2", "val/e": "3", "test/f": "3"}
    images = [image(path, cast(Split, path.split("/")[0]), group=group) for path, group in groups.items()]
    apart = keep_apart(images)
    assert [one.path for one in apart.kept_apart] == ["train/a", "val/e"]
    assert apart.notes == (
        "2 groups in more than one split (such as train/a and val/b); images left out therefore: 1 of train and "
        "1 of val",
    )

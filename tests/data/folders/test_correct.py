"""`scan` with a user's corrections: images left out, relabelled and grouped."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnn_tl.core.errors import DataError
from cnn_tl.data.corrections import RELABEL_HEADER, exclude_line, relabel_row
from cnn_tl.data.folders.scan import Corrections, scan
from cnn_tl.data.manifest import Manifest
from cnn_tl.data.manifest_changes import changes


def draw(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(path, "PNG")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    for number in range(30):
        draw(tmp_path / "data" / ("cats", "dogs", "owls")[number % 3] / f"film{number % 4}-{number:02}.png", number)
    return tmp_path / "data"


@pytest.fixture
def split(tmp_path: Path) -> Path:
    for number in range(60):
        place = ("train", "train", "train", "val", "test")[number % 5]
        draw(tmp_path / "data" / place / ("cats", "dogs")[number // 5 % 2] / f"{number:02}.png", number)
    return tmp_path / "data"


def scanned(root: Path, **options: Any) -> Manifest:
    corrections = {key: options.pop(key) for key in ("exclude", "relabel", "groups") if key in options}
    settings = {"seed": 0, "val_fraction": 0.3, "workers": 0, **options}
    return scan(root, corrections=Corrections(**corrections), **settings)


def exclude(root: Path, *names: str) -> Path:
    path = root.parent / "exclude.txt"
    path.write_text("".join(map(exclude_line, names)))
    return path


def relabel(root: Path, **labels: str) -> Path:
    path = root.parent / "relabel.csv"
    path.write_text(RELABEL_HEADER + "".join(relabel_row(name, label) for name, label in labels.items()))
    return path


def test_no_corrections_change_nothing(flat: Path) -> None:
    plain = scanned(flat)
    assert scanned(flat, exclude=exclude(flat), relabel=relabel(flat)) == plain
    written = plain.to_json()
    assert written["image_fields"] == ["path", "label", "split", "bytes", "mtime_ns", "sha256"]
    assert written["excluded"] == written["kept_apart"] == []


def test_excluded_images_are_listed_and_not_used(flat: Path) -> None:
    plain = scanned(flat)
    name = plain.of("train")[0].path
    found = scanned(flat, exclude=exclude(flat, name, "cats/gone.png"))
    assert name not in {image.path for image in found.images}
    [left_out] = found.excluded
    assert left_out.path == name
    assert left_out.reason == f"excluded by {flat.parent / 'exclude.txt'}"
    assert found.set_aside == ()
    assert any("no images of the folder: 1 (such as cats/gone.png)" in note for note in found.notes)
    assert any(f"1 (such as {name})" in note for note in found.notes)
    assert len(found.images) == 29
    assert Manifest.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_excluded_images_do_not_count_as_broken(flat: Path) -> None:
    broken = [f"cats/broken{number}.png" for number in range(40)]
    for name in broken:
        (flat / name).write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match="40 of 70 images"):
        scanned(flat)
    found = scanned(flat, exclude=exclude(flat, *broken), on_bad_image="fail")
    assert len(found.images) == 30
    assert len(found.excluded) == 40


def test_relabelled_images_have_their_new_label_and_say_the_given_one(flat: Path) -> None:
    found = scanned(flat, relabel=relabel(flat, **{"cats/film0-00.png": "owls", "dogs/film1-01.png": "dogs"}))
    [changed] = found.relabelled()
    assert changed.path == "cats/film0-00.png"
    assert found.classes[changed.label] == "owls"
    assert changed.given == found.classes.index("cats")
    assert any("1 (such as cats/film0-00.png, now owls)" in note for note in found.notes)
    assert sum(found.counts()["owls"].values()) == 11
    labels = [image.label for image in found.of("train")]
    assert labels == sorted(labels)
    assert Manifest.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_an_excluded_image_is_not_relabelled(flat: Path) -> None:
    name = "cats/film0-00.png"
    found = scanned(flat, exclude=exclude(flat, name), relabel=relabel(flat, **{name: "owls"}))
    assert found.relabelled() == ()
    assert len(found.excluded) == 1


def test_files_that_do_not_fit_the_folder(flat: Path) -> None:
    with pytest.raises(DataError, match=r"no name in .*exclude.txt is an image of .*such as other/1.png; names are"):
        scanned(flat, exclude=exclude(flat, "other/1.png", "cats"))
    with pytest.raises(DataError, match=r"relabel.csv, line 2 gives cats/film0-00.png the class birds"):
        scanned(flat, relabel=relabel(flat, **{"cats/film0-00.png": "birds"}))
    with pytest.raises(DataError, match="is a folder"):
        scanned(flat, exclude=flat)
    with pytest.raises(DataError, match=r"groups.csv cannot be read: No such file"):
        scanned(flat, groups=flat / "groups.csv")


def test_a_class_that_ceases_to_exist(flat: Path) -> None:
    cats = [f"cats/{path.name}" for path in sorted((flat / "cats").iterdir())]
    with pytest.raises(DataError, match=r"class cats in .* has no usable training image \(10 left out, such as"):
        scanned(flat, exclude=exclude(flat, *cats))
    with pytest.raises(DataError, match=r"\(10 in another class by data.relabel, such as cats/"):
        scanned(flat, relabel=relabel(flat, **dict.fromkeys(cats, "owls")))


def test_groups_by_a_pattern_stay_in_one_split(flat: Path) -> None:
    found = scanned(flat, groups=r"film\d")
    splits: dict[str, set[str]] = {}
    for image in found.images:
        splits.setdefault(image.group, set()).add(image.split)
    assert set(splits) == {"film0", "film1", "film2", "film3"}
    assert all(len(own) == 1 for own in splits.values())
    assert any("30 in 4 groups" in note for note in found.notes)
    assert Manifest.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize("seed", range(15))
def test_random_groups_cross_no_split_of_the_folder(split: Path, seed: int) -> None:
    chance = random.Random(seed)
    plain = scanned(split)
    groups = {image.path: f"{chance.randrange(60)}" for image in plain.images if chance.random() < 0.6}
    table = split.parent / "groups.csv"
    table.write_text("image,group\n" + "".join(f"{path},{name}\n" for path, name in groups.items()))
    found = scanned(split, groups=table)
    assert found == scanned(split, groups=lambda _: groups)
    splits: dict[str, set[str]] = {}
    for image in found.images:
        splits.setdefault(groups.get(image.path, image.path), set()).add(image.split)
    assert all(len(own) == 1 for own in splits.values())
    assert {image.split for image in found.kept_apart} <= {"train", "val"}
    assert found.of("test") == tuple(
        image for image in found.of("test") if image.path in {one.path for one in plain.of("test")}
    )
    assert len(found.of("test")) == len(plain.of("test"))
    assert len(found.images) + len(found.kept_apart) == len(plain.images)


def test_a_copy_across_splits_is_kept_apart_if_there_are_groups(split: Path) -> None:
    shutil.copy(split / "val/cats/03.png", split / "train/cats/copy.png")
    assert any("also in train" in note for note in scanned(split).notes)
    assert any(note.startswith(f"cnn-tl doctor {split} ") for note in scanned(split).notes)
    found = scanned(split, groups=lambda _: {})
    assert [image.path for image in found.kept_apart] == ["train/cats/copy.png"]
    assert not any("also in train" in note or "cnn-tl doctor" in note for note in found.notes)
    assert any("1 group in more than one split (such as train/cats/copy.png and val/cats/03.png)" in note
               for note in found.notes)  # fmt: skip


def test_a_finder_sees_the_corrected_images(flat: Path) -> None:
    seen: list[Manifest] = []

    def find(manifest: Manifest) -> dict[str, str]:
        seen.append(manifest)
        return {}

    scanned(flat, exclude=exclude(flat, "cats/film0-00.png"), groups=find)
    [manifest] = seen
    assert len(manifest.images) == 29
    assert Counter(image.split for image in manifest.images) == {"train": 29}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda root: {"exclude": exclude(root, "cats/film0-00.png")}, "excluded now: cats/film0-00.png"),
        (lambda root: {"relabel": relabel(root, **{"cats/film0-00.png": "owls"})},
         "relabelled from cats to owls: cats/film0-00.png"),
        (lambda root: {"groups": r"film\d"}, "in another group: cats/film0-00.png"),
    ],
)  # fmt: skip
def test_changed_corrections_are_differences(flat: Path, change: Callable[[Path], dict[str, Any]], line: str) -> None:
    plain, changed = scanned(flat), scanned(flat, **change(flat))
    assert line in changes(plain, changed)
    assert changes(changed, plain) != []
    assert changes(changed, scanned(flat, **change(flat))) == []
    assert changes(Manifest.from_json(json.loads(json.dumps(changed.to_json()))), changed) == []


def test_an_image_that_broke_later_keeps_its_group(flat: Path) -> None:
    found = scanned(flat, groups=r"film\d")
    less = found.without([(found.images[0], "truncated")])
    assert less.groups() == found.groups()
    assert Manifest.from_json(json.loads(json.dumps(less.to_json()))).groups() == found.groups()

"""Which folders are splits and which are classes: plain, refused with a way out, or named by the user."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnn_tl.core.errors import DataError, RecipeError, UsageError
from cnn_tl.data.folders.folder_names import roles_of
from cnn_tl.data.folders.scan import scan
from cnn_tl.data.manifest import Manifest
from cnn_tl.evaluating.labelled_images import TrainingData, find_labelled
from cnn_tl.recipe.resolving import placed
from cnn_tl.recipe.schema import Data

_serial = iter(range(10**6))


def tree(root: Path, *folders: str, empty: tuple[str, ...] = ()) -> Path:
    """Put four images into each folder; `{a,b}` in its name stands for both, at one place."""
    for folder in folders:
        before, _, rest = folder.partition("{")
        inside, _, after = rest.partition("}")
        for name in inside.split(","):
            place = root / f"{before}{name}{after}"
            place.mkdir(parents=True)
            for number in range(4):
                serial = next(_serial)
                Image.new("RGB", (8, 8), (serial % 256, serial // 256, 7)).save(place / f"{number}.png")
    for name in empty:
        (root / name).mkdir(parents=True)
    return root


def scanned(root: Path, **options: Any) -> Manifest:
    return scan(root, **{"seed": 0, "val_fraction": 0.25, "workers": 0, **options})


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("Training/{ant,bee}", "Testing/{ant,bee}"), {"train": "Training", "test": "Testing"}),
        (("train/{ant,bee}", "dev/{ant,bee}"), {"train": "train", "val": "dev"}),
        (("train/{ant,bee}", "test/{ant,bee}", "predict"), {"train": "train", "test": "test"}),
        (("train/{ant,bee}", "test/{ant,bee}", "sample/{ant,bee}"), {"train": "train", "test": "test"}),
        (("train/{ant,bee}", "Validation/{ant,bee}", "unlabeled"), {"train": "train", "val": "Validation"}),
        (("TRAIN/{ant,bee}", "VAL/{ant,bee}", "TEST/{ant,bee}"), {"train": "TRAIN", "val": "VAL", "test": "TEST"}),
        (("training_set/{ant,bee}", "test_set/{ant,bee}"), {"train": "training_set", "test": "test_set"}),
        (("TrainSet/{ant,bee}", "DevSet/{ant,bee}"), {"train": "TrainSet", "val": "DevSet"}),
        (("train2017/{ant,bee}", "val2017/{ant,bee}"), {"train": "train2017", "val": "val2017"}),
        (
            ("seg_train/seg_train/{ant,bee}", "seg_test/seg_test/{ant,bee}", "seg_pred/seg_pred"),
            {"train": "seg_train/seg_train", "test": "seg_test/seg_test"},
        ),
        (("insects_train/{ant,bee}", "insects_valid/{ant,bee}"), {"train": "insects_train", "val": "insects_valid"}),
        (("insects/train/{ant,bee}", "insects/val/{ant,bee}"), {"train": "insects/train", "val": "insects/val"}),
        (("data/images/Train/{ant,bee}", "data/images/Test/{ant,bee}"), {"train": "data/images/Train",
                                                                         "test": "data/images/Test"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_plain_splits(tmp_path: Path, folders: tuple[str, ...], splits: dict[str, str]) -> None:
    manifest = scanned(tree(tmp_path, *folders))
    assert manifest.classes == ("ant", "bee")
    assert manifest.splits == splits
    own_val = "val" in splits
    assert manifest.counts()["ant"] == {"train": 4 if own_val else 3, "val": 4 if own_val else 1,
                                        "test": 4 if "test" in splits else 0}  # fmt: skip
    if "test" in splits:  # it is never chosen from
        assert all(image.path.startswith(splits["test"]) for image in manifest.of("test"))
        assert not any(image.path.startswith(splits["test"]) for image in manifest.of("val"))
    assert Manifest.from_json(manifest.to_json()).splits == splits


@pytest.mark.parametrize("beside", ["logs", "runs", "anything"])
def test_an_empty_folder_beside_the_splits_is_left_out(tmp_path: Path, beside: str) -> None:
    for folders in (("train/{ant,bee}", "test/{ant,bee}"), ("train/{ant,bee}",)):
        manifest = scanned(tree(tmp_path / str(len(folders)), *folders, empty=(beside,)))
        assert manifest.classes == ("ant", "bee")
        assert f"folders beside train, left out: {beside}" in manifest.notes


@pytest.mark.parametrize(
    ("folders", "empty", "words"),
    [
        (("Trainning/{ant,bee}", "Testing/{ant,bee}"), (), ("--set data.train=Trainning --set data.test=Testing",)),
        (("train/{ant,bee}", "eval/{ant,bee}"), (), ("--set data.train=train --set data.val=eval", "data.train=.")),
        (("train/{ant,bee}", "other half/{ant,bee}"), (), ("--set data.val='other half'",)),
        (("fold1/{ant,bee}", "fold2/{ant,bee}", "fold3/{ant,bee}"), (), ("--set data.train=fold1", "fold3/{ant, bee}")),
        (("query/{ant,bee}", "gallery/{ant,bee}"), (), ("data.train=", "data.val=")),
        (("bounding_box_train/{ant,bee}", "gallery/{ant,bee}", "query/{ant,bee}"), (), ("data.train=", "data.val=")),
        (("train_on_these/{ant,bee}", "later/{ant,bee}"), (), ("later/{ant, bee}", "--set data.train=.")),
        (("Trainingsdaten/{ant,bee}", "Testdaten/{ant,bee}"), (), ("data.train=", "Testdaten/{ant, bee}")),
        (("ant/{left,right}", "bee/{left,right}"), (), ("ant/{left, right}, bee/{left, right}", "--set data.train=.")),
        (("ant/{2023,2024}", "bee/{2023,2024}", "cat/{2023,2024}"), (), ("cat/{2023, 2024}", "--set data.train=.")),
        (("a/{ant,bee}", "b/{ant,bee}"), (), ("a/{ant, bee}, b/{ant, bee}", "--set data.train=a --set data.val=b")),
        (("old/{ant,bee,cow}", "new/{ant,bee}"), (), ("--set data.train=new --set data.val=old", "data.train=.")),
        (("trainval/{ant,bee}", "test/{ant,bee}"), (), ("--set data.train=trainval --set data.test=test",)),
        (("ant/{train,test}", "bee/{train,test}"), (), ("ant/{test, train}", "--set data.train=.")),
        (("train/{ant,bee}", "training/{ant,bee}"), (), ("both train and training",)),
        (("trainA", "trainB", "testA", "testB"), (), ("no class folders inside train",)),
        (("train_images", "test_images"), (), ("no class folders inside train", "table")),
        (("val/{ant,bee}", "test/{ant,bee}"), (), ("no train split",)),
        (("images", "annotations/trimaps"), (), ("images and annotations", "annotation files are not read")),
        (("VOC/JPEGImages",), ("VOC/Annotations", "VOC/ImageSets"), ("JPEGImages and Annotations",)),
        (("images/{train,val}",), ("labels/train",), ("images and labels", "sort the images")),
        (("train/images", "val/images"), ("train/labels", "val/labels"), ("images and labels",)),
        (("Images/{ant,bee}",), ("Annotation/ant",), ("give ", "/Images")),
        (("PetImages/{ant,bee}",), (), ("only one class, PetImages", "ant, bee", "/PetImages")),
        (("deep/er/{ant,bee}",), (), ("only one class, er", "/deep/er")),
        (("a/b/c/d/e/f/{ant,bee,cow}",), (), ("ant, bee, cow", "/data/a/b/c/d/e/f")),
        (("insects-10/raw-img/{ant,bee}",), (), ("only one class, insects-10", "ant, bee", "/data/insects-10/raw-img")),
        (("zoo/{ant,bee}", "unlabelled"), (), ("only one class, zoo", "/data/zoo")),
        (("labelled", "unlabelled"), (), ("holds unlabelled, which is no class", "--set data.train=.")),
        (("train/labelled/{ant,bee}", "train/unlabelled"), (), ("/train holds unlabelled", "--set data.train=FOLDER")),
        (("ant", "bee", "not_annotated"), (), ("holds not_annotated", "--set data.train=.")),
        (("ant",), (), ("only one class, ant",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_what_is_unclear_is_refused_with_a_way_out(
    tmp_path: Path, folders: tuple[str, ...], empty: tuple[str, ...], words: tuple[str, ...]
) -> None:
    root = tree(tmp_path / "data", *folders, empty=empty)
    with pytest.raises(DataError) as caught:
        scanned(root)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("folders", "classes", "remark"),
    [
        (("ant/{left,right}", "bee/{red,green}"), ("ant", "bee"), None),
        (("ant/{2023-01,2023-02,2023-03}", "bee/{2024-01,2024-02,2023-03}"), ("ant", "bee"), None),
        (("a/{ant,bee}", "b"), ("a", "b"), None),
        (("train", "bus", "car"), ("bus", "car", "train"), None),
        (("train/{left,right}", "bus", "car"), ("bus", "car", "train"), None),
        (("train_station", "test_tube"), ("test_tube", "train_station"), None),
        (("valid", "invalid"), ("invalid", "valid"), None),
        (("mask", "no_mask"), ("mask", "no_mask"), None),
        (("ant/images", "bee/images"), ("ant", "bee"), None),
        (("fold", "crease"), ("crease", "fold"), None),
        (("insects/insects/{ant,bee}",), ("ant", "bee"), "the data lies in insects/insects"),
        (("images/{ant,bee}",), ("ant", "bee"), "the data lies in images"),
        (("labelled/{ant,bee}", "unlabelled"), ("ant", "bee"), "folders beside labelled, left out: unlabelled"),
        (("labeled_images/{ant,bee}", "images_unlabeled/{x,y}"), ("ant", "bee"), "left out: images_unlabeled"),
        (("annotated/{ant,bee}", "unannotated"), ("ant", "bee"), "folders beside annotated, left out: unannotated"),
        (("unlabelled bottle", "labelled bottle"), ("labelled bottle", "unlabelled bottle"), None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_classes_stay_classes(
    tmp_path: Path, folders: tuple[str, ...], classes: tuple[str, ...], remark: str | None
) -> None:
    manifest = scanned(tree(tmp_path / "data", *folders))
    assert manifest.classes == classes
    assert manifest.splits == {}
    assert remark is None or remark in " ".join(manifest.notes)


def test_the_users_word_decides(tmp_path: Path) -> None:
    root = tree(tmp_path, "a/{ant,bee}", "b/{ant,bee}", "c/{ant,bee}")
    named = scanned(root, splits={"train": "a", "val": "c", "test": "b"})
    assert (named.classes, named.layout) == (("ant", "bee"), "a (train) + c (val) + b (test)")
    assert {image.path[0] for image in named.of("val")} == {"c"}
    everything = scanned(root, splits={"train": "."})
    assert everything.classes == ("a", "b", "c")
    assert everything.counts()["a"] == {"train": 6, "val": 2, "test": 0}
    tree(root / "hold", "{a,b}")
    assert scanned(root, splits={"train": ".", "test": "hold"}).classes == ("a", "b", "c")
    for splits, words in (
        ({"train": "nosuch"}, "data.train: .*nosuch is not a folder; .* contains a, b, c"),
        ({"train": "a", "val": "a"}, "data.train and data.val are the same folder"),
    ):
        with pytest.raises(DataError, match=words):
            scanned(root, splits=splits)


@pytest.mark.parametrize(
    ("given", "path", "splits"),
    [
        ({"path": "d", "train": "a", "test": "b"}, "d", ("a", None, "b")),
        ({"train": "d/a", "val": "d/b"}, "d", ("a", "b", None)),
        ({"train": "a", "val": "b"}, ".", ("a", "b", None)),
        ({"train": "d/a"}, "d", ("a", None, None)),
        ({"train": "."}, ".", (".", None, None)),
        ({"path": "/x/d", "train": "/x/d/a"}, "/x/d", ("a", None, None)),
        ({"path": "/x/d", "train": "a", "val": "/x/e"}, "/x", ("d/a", "e", None)),
        ({"path": "d", "train": "../a", "val": "b"}, ".", ("a", "d/b", None)),
    ],
    ids=str,
)
def test_named_folders_lie_below_one(given: dict[str, str], path: str, splits: tuple[str | None, ...]) -> None:
    made = placed(Data(**given))  # type: ignore[arg-type]
    assert (made.path, (made.train, made.val, made.test)) == (path, splits)
    assert placed(made) == made


def test_a_split_needs_train() -> None:
    with pytest.raises(RecipeError, match=r"data\.val needs data\.train"):
        placed(Data(path="d", val="b"))


def test_names_say_the_same_in_any_order() -> None:
    names = ["seg_train", "logs", "seg_pred", "test_tube", "seg_test"]
    expected = {"seg_train": "train", "logs": "clutter", "seg_pred": "other", "seg_test": "test"}
    assert roles_of(names) == roles_of(names[::-1]) == expected


@pytest.mark.parametrize(
    ("folders", "split", "place"),
    [
        (("Training/{ant,bee}", "Testing/{ant,bee}"), "test", "Testing"),
        (("train/{ant,bee}", "dev/{ant,bee}"), "val", "dev"),
        (("seg_train/seg_train/{ant,bee}", "seg_test/seg_test/{ant,bee}"), "test", "seg_test"),
        (("wrapped/train/{ant,bee}", "wrapped/val/{ant,bee}"), "val", "wrapped/val"),
        (("insects/insects/{ant,bee}",), None, "insects/insects"),
        (("labelled/{ant,bee}", "unlabelled"), None, "labelled"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_evaluation_takes_the_same_splits(
    tmp_path: Path, folders: tuple[str, ...], split: str | None, place: str
) -> None:
    found = find_labelled(tree(tmp_path, *folders), ["ant", "bee"], split=None, training=None, limit=None, workers=0)
    assert found.split == split
    assert len(found.images) == 8
    assert all(file.relative_to(tmp_path).as_posix().startswith(place) for file, _ in found.images)


def test_evaluation_knows_what_the_run_has_named(tmp_path: Path) -> None:
    root = tree(tmp_path, "a/{ant,bee}", "b/{ant,bee}")
    asked: dict[str, Any] = {"limit": None, "workers": 0}
    named = TrainingData(frozenset(), {"train": "a", "test": "b"})
    found = find_labelled(root, ["ant", "bee"], split=None, training=named, **asked)
    assert found.split == "test"
    assert {file.parent.parent.name for file, _ in found.images} == {"b"}
    with pytest.raises(DataError, match=r"does not know: a, b; .*its classes are folders in .*a, so name that folder"):
        find_labelled(root, ["ant", "bee"], split=None, training=None, **asked)
    with pytest.raises(UsageError, match="no split val"):
        find_labelled(root, ["ant", "bee"], split="val", training=named, **asked)


def test_the_command_records_what_was_named(tmp_path: Path, cli: Callable[..., Any], tiny_weights: Path) -> None:
    root = tree(tmp_path / "data", "a/{ant,bee}", "b/{ant,bee}")
    plan = cli("train", root, "--set", "data.train=a", "--set", "data.val=b", "--model", "test_resnet", "--weights",
               tiny_weights, "--dry-run", "--json")  # fmt: skip
    assert plan.code == 0, plan.err
    assert '"layout": "a (train) + b (val)"' in plan.out

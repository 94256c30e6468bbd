from __future__ import annotations

import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnn_tl.core.errors import DataError
from cnn_tl.core.files import sha256_file
from cnn_tl.data.folders.find_images import natural_key, some_of
from cnn_tl.data.folders.scan import scan
from cnn_tl.data.manifest import Manifest

_serial = iter(range(10**6))
needs_links = pytest.mark.skipif(os.name == "nt", reason="links and pipes need Unix")


def draw(path: Path) -> Path:
    """Write a small image unlike any other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = next(_serial)
    Image.new("RGB", (8, 8), (number % 256, number // 256 % 256, number // 65536)).save(path, "PNG")
    return path


def tree(root: Path, **counts: int) -> Path:
    """Create class folders, or splits with `split__class`, each with a number of images."""
    for name, count in counts.items():
        folder = root.joinpath(*name.split("__"))
        folder.mkdir(parents=True)
        for number in range(count):
            draw(folder / f"{number}.png")
    return root


def scanned(root: Path, **options: Any) -> Manifest:
    return scan(root, **{"seed": 0, "val_fraction": 0.2, **options})


def note(manifest: Manifest, words: str) -> str:
    [line] = [line for line in manifest.notes if words in line]
    return line


def test_class_folders(tmp_path: Path) -> None:
    manifest = scanned(tree(tmp_path, class10=10, class2=5, class1=3))
    assert manifest.classes == ("class1", "class2", "class10")
    assert [count["train"] for count in manifest.counts().values()] == [2, 4, 8]
    assert [count["val"] for count in manifest.counts().values()] == [1, 1, 2]
    assert manifest.set_aside == manifest.notes == ()
    assert all(image.path.startswith(manifest.classes[image.label]) for image in manifest.images)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_parts(tmp_path: Path, val: str) -> None:
    splits = {"train__a": 3, "train__b": 3, f"{val}__a": 2, f"{val}__b": 1, "test__a": 4}
    manifest = scanned(tree(tmp_path, **splits))
    assert manifest.counts()["a"] == {"train": 3, "val": 2, "test": 4}
    assert manifest.counts()["b"] == {"train": 3, "val": 1, "test": 0}
    assert manifest.layout == f"train + {val} + test"
    assert "b" in note(manifest, "without an image in test")


def test_train_alone_gives_its_own_validation_part(tmp_path: Path) -> None:
    manifest = scanned(tree(tmp_path, train__a=10, train__b=10, test__a=5))
    assert manifest.counts()["a"] == {"train": 8, "val": 2, "test": 5}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert scanned(tree(tmp_path, train=5, bus=5)).classes == ("bus", "train")
    draw(tmp_path / "train" / "steam" / "1.png")
    assert scanned(tmp_path).classes == ("bus", "train")


def test_classes_missing_in_val_keep_their_label(tmp_path: Path) -> None:
    manifest = scanned(tree(tmp_path, train__a=2, train__b=2, train__c=2, val__c=1))
    assert [image.label for image in manifest.of("val")] == [2]
    assert note(manifest, "without an image in val").endswith("a, b")


def test_the_split_depends_on_seed_and_contents_only(tmp_path: Path) -> None:
    def val(root: Path, seed: int = 0) -> set[str]:
        return {image.sha256 for image in scanned(root, seed=seed).of("val")}

    root = tree(tmp_path / "one", a=20, b=20)
    chosen = val(root)
    assert chosen == val(root)
    assert chosen != val(root, seed=1)
    shutil.copytree(root, tmp_path / "two")
    for path in (tmp_path / "two" / "a").iterdir():
        path.rename(path.with_name(f"renamed-{path.name}"))
    assert val(tmp_path / "two") == chosen


@pytest.mark.parametrize(
    ("count", "fraction", "val"), [(2, 0.01, 1), (2, 0.5, 1), (3, 0.5, 2), (10, 0.25, 2), (7, 0.99, 6)]
)
def test_every_class_is_in_both_parts(tmp_path: Path, count: int, fraction: float, val: int) -> None:
    manifest = scanned(tree(tmp_path, a=count, b=count), val_fraction=fraction)
    assert {tuple(sizes.values()) for sizes in manifest.counts().values()} == {(count - val, val, 0)}


def test_copies_stay_in_one_part(tmp_path: Path) -> None:
    root = tree(tmp_path, a=6, b=6)
    for path in list((root / "a").iterdir()):
        for copy in range(3):
            shutil.copy(path, path.with_name(f"copy-{copy}-{path.name}"))
    manifest = scanned(root, val_fraction=0.5)
    parts = Counter(image.sha256 for image in manifest.of("val") if image.label == 0)
    assert set(parts.values()) == {4}
    assert note(manifest, "copies of another").endswith("18")


def test_copies_across_parts_and_classes_are_told(tmp_path: Path) -> None:
    root = tree(tmp_path, train__a=3, train__b=3, val__a=2, val__b=2)
    shutil.copy(root / "train" / "a" / "0.png", root / "val" / "a" / "leak.png")
    shutil.copy(root / "train" / "a" / "1.png", root / "train" / "b" / "torn.png")
    manifest = scanned(root)
    assert "1 (such as val/a/leak.png)" in note(manifest, "also in train")
    assert "1 (such as train/a/1.png and train/b/torn.png)" in note(manifest, "two classes")


def test_imbalance_and_single_images_are_told(tmp_path: Path) -> None:
    manifest = scanned(tree(tmp_path, train__many=10, train__one=1, val__many=1))
    assert "10 training images of many, 1 of one" in note(manifest, "balanced")
    assert note(manifest, "only one training image").endswith("one")


def test_what_is_no_image_is_counted_and_left_out(tmp_path: Path) -> None:
    root = tree(tmp_path, a=3, b=3)
    (root / "a" / "notes.txt").write_text("BM is how a bitmap starts")
    (root / "a" / "empty").touch()
    for hidden in (".git", ".ipynb_checkpoints", "__MACOSX"):
        draw(root / hidden / "x.png")
    draw(root / "a" / ".hidden.png")
    draw(root / "b" / "no-extension")
    draw(root / "b" / "deep" / "er" / "1.png")
    manifest = scanned(root)
    assert manifest.classes == ("a", "b")
    assert len(manifest.images) == 8
    assert note(manifest, "not images").endswith(": 2")
    assert note(manifest, "hidden").endswith(": 4")
    assert note(manifest, "sub-folders").endswith(": 1")


@needs_links
def test_links_and_pipes(tmp_path: Path) -> None:
    root = tree(tmp_path / "data", a=3, b=3)
    outside = draw(tmp_path / "elsewhere" / "outside.png").parent
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "a" / "again.png").symlink_to(root / "a" / "1.png")
    (root / "a" / "nowhere.png").symlink_to(root / "missing")
    (root / "a" / "circle.png").symlink_to(root / "a" / "circle.png")
    (root / "b" / "more").symlink_to(outside)
    manifest = scanned(root)
    assert Counter(image.label for image in manifest.images) == {0: 3, 1: 4}
    assert note(manifest, "pipes").endswith(": 1")
    assert note(manifest, "already seen").endswith(": 3")
    assert note(manifest, "broken links").endswith(": 2")
    assert note(manifest, "lead out").endswith(": 1")


@needs_links
def test_a_root_that_links_to_itself(tmp_path: Path) -> None:
    (tmp_path / "me").symlink_to(tmp_path / "me")
    with pytest.raises(DataError, match="does not exist"):
        scanned(tmp_path / "me")


@needs_links
def test_hard_links_are_files_of_their_own(tmp_path: Path) -> None:
    root = tree(tmp_path, a=3, b=3)
    os.link(root / "a" / "0.png", root / "a" / "same.png")
    assert len(scanned(root).images) == 7


@needs_links
@pytest.mark.parametrize("name", ["x" * 250 + ".png", "line\nbreak.png", "\udcff\udcfe.png", "größe 名.png"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    root = tree(tmp_path, a=3, b=3)
    try:
        draw(root / "a" / "plain.png").rename(root / "a" / name)
    except OSError:
        pytest.skip("the file system refuses such a name")
    manifest = scanned(root)
    [image] = [one for one in manifest.images if one.path == f"a/{name}"]
    assert manifest.file(image).exists()
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    scanned(tree(tmp_path, a=100, b=50), on_progress=lambda done, total: calls.append((done, total)))
    assert [total for _, total in calls] == [150] * len(calls)
    assert [done for done, _ in calls] == [64, 128, 150]


@pytest.mark.parametrize("workers", [0, 1, 2, 8])
def test_the_number_of_threads_changes_nothing(tmp_path: Path, workers: int) -> None:
    root = tree(tmp_path, a=70, b=70)
    assert scanned(root, workers=workers) == scanned(root)


def make_archive(root: Path) -> None:
    with zipfile.ZipFile(root, "w") as archive:
        archive.writestr("a/1.txt", "x")


def make_loose(root: Path) -> None:
    for number in range(7):
        draw(root / f"{number}.png")


def with_loose(place: str, **counts: int) -> Callable[[Path], object]:
    return lambda root: draw(tree(root, **counts) / place / "x.png")


def of(**counts: int) -> Callable[[Path], object]:
    return lambda root: tree(root, **counts)


SPLITS = {"train__a": 2, "train__b": 2}
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda root: None, "does not exist"),
    "file": (lambda root: root.write_bytes(b"x"), "is a file; expected a folder"),
    "archive": (make_archive, "is an archive; unpack it first"),
    "empty": (Path.mkdir, "no class folders in .*; expected .*/<class>/"),
    "hidden only": (of(**{".git": 2}), "no class folders"),
    "one class": (of(a=5), "has only one class, a; "),
    "one class in train": (of(train__a=5, val__a=5), "has only one class, a; "),
    "empty class": (of(a=5, b=0), "class folder .*b has no image in it"),
    "class of one": (of(a=5, b=1), "class b has one usable image, and at least two"),
    "loose": (make_loose, r"images directly in .* \(7: 0\.png, 1\.png, 2\.png, 3\.png, 4\.png and 2 more"),
    "loose beside classes": (with_loose("", a=2, b=2), r"have no class \(1: x\.png\)"),
    "loose in train": (with_loose("train", **SPLITS), "directly in .*train have no class"),
    "loose in val": (with_loose("val", **SPLITS, val__a=1), "directly in .*val have no class"),
    "splits without classes": (of(train=3, val=3), "no class folders inside train"),
    "val without train": (of(val__a=3, test__a=3), "val, test, and no train split"),
    "val without classes": (of(**SPLITS, val=0), "no class folders in .*val"),
    "empty val": (of(**SPLITS, val__a=0), "no usable validation image"),
    "two vals": (of(**SPLITS, val__a=2, valid__a=2), "both val and valid"),
    "unknown class": (of(**SPLITS, val__bird=2), "classes that train lacks: bird"),
    "unknown class in test": (of(**SPLITS, test__bird=2), "train lacks: bird"),
    "Unicode clash": (of(**{"caf\u00e9": 2, "cafe\u0301": 2}), r"'caf\\xe9'"),
    "case clash across splits": (of(**SPLITS, val__A=2), "'A' and 'a'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_folders_are_refused(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    root = tmp_path / "data"
    make(root)
    with pytest.raises(DataError, match=message) as caught:
        scanned(root)
    assert "\n" not in str(caught.value)


def test_case_clash(tmp_path: Path) -> None:
    tree(tmp_path, cat=2)
    if (tmp_path / "CAT").exists():
        pytest.skip("the file system does not tell case apart")
    with pytest.raises(DataError, match="differ only by case or Unicode form: 'CAT' and 'cat'"):
        scanned(tree(tmp_path, CAT=2))


@pytest.mark.parametrize("place", ["", "a", "a/0.png", "a/no-extension"])
def test_what_may_not_be_read_is_no_bad_image(tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path, a=5, b=5)
    draw(root / "a" / "no-extension")
    forbidden = root / place

    def guard(real: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(path: Any, *args: Any, **options: Any) -> Any:
            if Path(path) == forbidden:
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *args, **options)

        return guarded

    monkeypatch.setattr(os, "scandir", guard(os.scandir))
    monkeypatch.setattr(Path, "open", guard(Path.open))
    monkeypatch.setattr(os, "open", guard(os.open))
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        scanned(root)


def test_unlabelled_test_images_and_other_folders_are_left_out(tmp_path: Path) -> None:
    root = tree(tmp_path, train__a=2, train__b=2, val__a=2, val__b=2, test=6, annotations=1)
    manifest = scanned(root)
    assert manifest.of("test") == ()
    assert note(manifest, "without a class").endswith(": 6")
    assert note(manifest, "beside train").endswith(": annotations")


def test_natural_order() -> None:
    names = ["x10", "x2", "X1", "x01", "b", "10", "9"]
    assert sorted(names, key=natural_key) == ["9", "10", "b", "X1", "x01", "x2", "x10"]
    assert sorted(["dog2", "dog", "dog10", "2"], key=natural_key) == ["2", "dog", "dog2", "dog10"]


def test_a_image_of_two_classes_is_not_validated_on(tmp_path: Path) -> None:
    root = tree(tmp_path, a=6, b=6)
    for number in range(3):
        shutil.copy(next(iter((root / "a").iterdir())), root / "b" / f"copy{number}.png")
    shared = sha256_file(next(iter((root / "a").iterdir())))
    for seed in range(8):
        assert shared not in {p.sha256 for p in scanned(root, seed=seed).of("val")}


def test_some_of() -> None:
    assert some_of(["a", "b\n"]) == "a, b\\n"
    assert some_of("abcdefg") == "a, b, c, d, e and 2 more"


def copied(root: Path, source: str, target: str, *, number: int = 3, prefix: str = "") -> None:
    (root / target).mkdir(exist_ok=True)
    for file in sorted((root / source).iterdir())[:number]:
        shutil.copy(file, root / target / f"{prefix}{file.name}")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda root: copied(root, "a", "b"), ("class a has 3 different images", "all of them", "in b, a copy of a/0")),
        (lambda root: (root / "b").symlink_to("a"), ("all of them also in another class", "b/0.png in b")),
        (lambda root: (copied(root, "a", "b", number=2), draw(root / "b" / "x.png")), ("2 of them", "another class")),
        (lambda root: [copied(root, "c", "b", number=1, prefix=p) for p in "xyz"] and (root / "c" / "0.png").unlink(),
         ("the 3 images of class b are all copies of b/x0.png",)),
        (lambda root: [(root / "b").mkdir(), draw(root / "b" / "0.png"), (root / "b" / "1.png").write_bytes(b"")],
         ("class b has one usable image (1 more cannot be read)",)),
        (lambda root: [(root / "b").mkdir(), (root / "b" / "0.png").symlink_to("nowhere")],
         ("has no image in it (broken links: 1)",)),
    ],
    ids=["copies", "linked folder", "most are copies", "copies within", "broken", "links to nowhere"],
)  # fmt: skip
@needs_links
def test_the_true_reason_is_named(tmp_path: Path, make: Callable[[Path], object], words: tuple[str, ...]) -> None:
    root = tree(tmp_path, a=3, c=4)
    make(root)
    with pytest.raises(DataError) as caught:
        scanned(root)
    for word in words:
        assert word in str(caught.value)

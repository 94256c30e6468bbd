"""Files, folders and patterns become a list of files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from cnn_tl.errors import DataError, UsageError
from cnn_tl.inference.images import find

ALL = ["photos/2.PNG", "photos/10.png", "photos/inner/3.png", "photos/without_extension"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pictures on two levels and what is to be left out, in the working directory."""
    folder = tmp_path / "photos"
    for name in ("10.png", "2.PNG", "inner/3.png", ".hidden/4.png", "inner/.6.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    (folder / "notes.txt").write_text("no picture")
    (folder / "without_extension").write_bytes((folder / "10.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    return folder


def names(*images: str | Path, recursive: bool = True) -> list[str]:
    return [str(path) for path in find(images, recursive=recursive)]


def test_folder_gives_its_pictures_in_natural_order(photos: Path) -> None:
    assert names("photos") == ALL


def test_folder_alone(photos: Path) -> None:
    assert names("photos", recursive=False) == ["photos/2.PNG", "photos/10.png", "photos/without_extension"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos/*.png", ["photos/10.png"]),
        ("photos/*", ["photos/2.PNG", "photos/10.png", "photos/without_extension"]),
        ("photos/**/*.png", ["photos/10.png", "photos/inner/3.png"]),
        ("photos/[12]*", ["photos/2.PNG", "photos/10.png"]),
        ("photos/?.PNG", ["photos/2.PNG"]),
    ],
)
def test_pattern(photos: Path, pattern: str, expected: list[str]) -> None:
    assert names(pattern) == expected


def test_names_keep_their_order_and_repeat(photos: Path) -> None:
    given = ["photos/10.png", "photos/2.PNG", "photos/10.png"]
    assert names(*given) == given


def test_one_name_without_a_list(photos: Path) -> None:
    assert list(find("photos/10.png")) == list(find(Path("photos/10.png"))) == [Path("photos/10.png")]


def test_file_whose_name_looks_like_a_pattern(photos: Path) -> None:
    (photos / "1.png").write_bytes((photos / "10.png").read_bytes())
    (photos / "[1].png").write_bytes((photos / "10.png").read_bytes())
    assert names("photos/[1].png") == ["photos/[1].png"]


@pytest.mark.parametrize("name", ["absent.png", "photos/notes.txt", "x" * 5000, "nul\0byte.png"])
def test_any_other_name_is_taken_as_it_is(photos: Path, name: str) -> None:
    assert names(name) == [name]


def test_loop_of_links_ends(photos: Path) -> None:
    (photos / "inner" / "loop").symlink_to(photos, target_is_directory=True)
    assert names("photos") == ALL


def test_pipe_is_not_opened(photos: Path) -> None:
    os.mkfifo(photos / "pipe.png")
    os.mkfifo(photos / "pipe")
    assert names("photos/*") == names("photos", recursive=False)


@pytest.mark.parametrize(
    ("name", "recursive", "message"),
    [
        ("photos/*.webp", True, r"no picture matches photos/\*\.webp"),
        ("photos/*.txt", True, r"no picture matches photos/\*\.txt"),
        ("empty", True, "no picture in the folder empty"),
        ("nested", False, r"no picture in the folder nested \(the folders in it were not searched\)"),
    ],
)
def test_nothing_found(photos: Path, name: str, recursive: bool, message: str) -> None:
    Path("empty").mkdir()
    Path("nested/inner").mkdir(parents=True)
    with pytest.raises(DataError, match=f"^{message}$"):
        names(name, recursive=recursive)


def test_empty_name(photos: Path) -> None:
    with pytest.raises(UsageError, match="empty name"):
        names("")

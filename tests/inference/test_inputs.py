"""Files, folders and patterns become a list of files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from PIL import Image

from cnn_tl.core.errors import DataError, UsageError
from cnn_tl.inference.inputs import find, paths_from

ALL = ["photos/2.PNG", "photos/10.png", "photos/inner/3.png", "photos/without_extension"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images on two levels and what is to be left out, in the working directory."""
    folder = tmp_path / "photos"
    for name in ("10.png", "2.PNG", "inner/3.png", ".hidden/4.png", "inner/.6.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    (folder / "notes.txt").write_text("no image")
    (folder / "without_extension").write_bytes((folder / "10.png").read_bytes())
    monkeypatch.chdir(tmp_path)
    return folder


def names(*images: str | Path, recursive: bool = True) -> list[str]:
    return [str(path) for path in find(images, recursive=recursive)]


def test_folder_gives_its_images_in_natural_order(photos: Path) -> None:
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
        ("photos/*.webp", True, r"no image matches photos/\*\.webp"),
        ("photos/*.txt", True, r"no image matches photos/\*\.txt \(1 file matches and is not an image\)"),
        ("empty", True, "no image in the folder empty"),
        ("nested", False, r"no image in the folder nested \(the folders in it were not searched\)"),
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


@pytest.mark.parametrize("name", ["http://example.com/a.jpg", "s3://bucket/a.png", Path("https://example.com/a")])
def test_url(name: str | Path) -> None:
    with pytest.raises(UsageError, match=r"(http|s3|https):/.* is a URL, but only files are read; download it first"):
        names(name)


def test_file_that_is_called_like_a_url(photos: Path) -> None:
    Path("http:/host").mkdir(parents=True)
    (photos / "10.png").rename("http:/host/a.png")
    assert names("http://host/a.png") == ["http:/host/a.png"]


def test_video(photos: Path) -> None:
    (photos / "clip.MP4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(600))
    assert names("photos") == ALL
    with pytest.raises(DataError, match=r"photos/clip\.MP4 is a video, .* with ffmpeg -i VIDEO -r 1 frame%05d\.png"):
        names("photos/clip.MP4")
    assert names("absent.mp4") == ["absent.mp4"]


def test_image_that_is_called_like_a_video(photos: Path) -> None:
    (photos / "10.png").rename("still.mov")
    assert names("still.mov") == ["still.mov"]


def through_a_pipe(content: bytes, end: bytes = b"\n") -> list[str]:
    reader, writer = os.pipe()
    feeder = threading.Thread(target=lambda: (os.write(writer, content), os.close(writer)))
    feeder.start()
    try:
        return [str(path) for path in paths_from(reader, end)]
    finally:
        os.close(reader)
        feeder.join()


@pytest.mark.parametrize(
    ("content", "end", "expected"),
    [
        (b"a.png\nb c.png\n", b"\n", ["a.png", "b c.png"]),
        (b"a.png\r\n\n*.png\r\nlast", b"\n", ["a.png", "*.png", "last"]),
        (b"two\nlines\0\xff\r\0\0last", b"\0", ["two\nlines", "\udcff\r", "last"]),
        (b"", b"\n", []),
        (b"\xef\xbb\xbfa.png\r\n\xef\xbb\xbfb.png\r\n  \r\n\r\n", b"\n", ["a.png", "b.png"]),
        (b"\xef\xbb\xbfa.png\0b.png\0", b"\0", ["a.png", "b.png"]),
        ("\ufeffa.png\r\nGröße/日本 𝄞.png\r\n\r\n".encode("utf-16-le"), b"\n", ["a.png", "Größe/日本 𝄞.png"]),
        ("\ufeffa.png\nb.png".encode("utf-16-be"), b"\n", ["a.png", "b.png"]),
        ("\ufeffa\nb.png\0c.png\0".encode("utf-16-le"), b"\0", ["a\nb.png", "c.png"]),
        ("\ufeff".encode("utf-16-le"), b"\n", []),
        (
            "\ufeff".encode("utf-16-be") + "".join(f"{n}.png\r\n" for n in range(9000)).encode("utf-16-be"),
            b"\n",
            [f"{n}.png" for n in range(9000)],
        ),
        (b"\xff.png\n\xfe\xfe.png", b"\n", ["\udcff.png", "\udcfe\udcfe.png"]),
        (b"\n".join(b"%d.png" % n for n in range(9000)), b"\n", [f"{n}.png" for n in range(9000)]),
    ],
)
def test_paths_from(content: bytes, end: bytes, expected: list[str]) -> None:
    assert through_a_pipe(content, end) == expected


def test_a_file_whose_name_begins_with_the_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("\ufeffa.png").touch()
    assert through_a_pipe("\ufeffa.png\n\ufeffb.png".encode()) == ["\ufeffa.png", "b.png"]


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-8"])
def test_a_list_that_comes_byte_by_byte(codec: str) -> None:
    reader, writer = os.pipe()

    def feed() -> None:
        for byte in "ä.png\r\nb.png\r\n".encode(codec):
            os.write(writer, bytes([byte]))
        os.close(writer)

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert [str(path) for path in paths_from(reader)] == ["ä.png", "b.png"]
    feeder.join()
    os.close(reader)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a.png\0b.png\0", "use --null"),
        ("a.png\r\nb.png\r\n".encode("utf-16-le"), "UTF-16 without a byte order mark"),
        (b"\xff\xfea", "begins as UTF-16"),
    ],
)
def test_a_list_in_another_encoding(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        through_a_pipe(content)


def test_a_name_is_there_while_the_pipe_stays_open() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"a.png\nb.pn")
    found = paths_from(reader)
    assert str(next(found)) == "a.png"
    os.write(writer, b"g\n")
    assert str(next(found)) == "b.png"
    os.close(writer)
    assert list(found) == []
    os.close(reader)


def test_what_is_no_list_of_names(tmp_path: Path) -> None:
    with (tmp_path / "zeros").open("wb+") as stream:
        stream.write(bytes(1 << 18))
        stream.seek(0)
        with pytest.raises(DataError, match="a line of more than 64 KiB"):
            list(paths_from(stream.fileno()))
    with pytest.raises(UsageError, match=r"stdin cannot be read: Bad file descriptor"):
        list(paths_from(987654))
    with pytest.raises(UsageError, match="is a URL"):
        through_a_pipe(b"http://example.com/a.jpg\n")

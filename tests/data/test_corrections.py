from __future__ import annotations

import codecs
import csv
import random
from pathlib import Path

import pytest

from cnn_tl.core.errors import DataError
from cnn_tl.data.corrections import (
    RELABEL_HEADER,
    csv_row,
    exclude_line,
    read_exclude,
    read_relabel,
    read_rows,
    relabel_row,
    written,
)

ODD = [
    "cats/1.jpg", "cats/a b.jpg", "cats/a,b;c.jpg", 'cats/"a".jpg', '"cats"/a.jpg', "#1/a.jpg", " cats/a.jpg",
    "cats/a.jpg ", "cats/a\nb.jpg", "cats/a\r\nb.jpg", "cats/\u2028.jpg", "cats/\x00.jpg", "cats/\udcff.jpg",
    "k\u00fc/\u00e9.jpg", "cats/\\n.jpg", "'a'/b.jpg", "\u00a0cats/a.jpg", "cats/a\t.jpg", "null", "[1]",
    "cats/\U0001f600.jpg",
]  # fmt: skip


def file(tmp_path: Path, content: bytes | str) -> Path:
    path = tmp_path / "list"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("name", ODD)
def test_every_name_survives_both_files_and_is_one_line(tmp_path: Path, name: str) -> None:
    for line in (exclude_line(name), relabel_row(name, name)):
        assert line.encode().splitlines(keepends=True) == [line.encode()]
    assert list(read_exclude(file(tmp_path, "a\n" + exclude_line(name)))) == ["a", name]
    assert read_relabel(file(tmp_path, RELABEL_HEADER + relabel_row(name, name) + "a,b\n")) == {name: name, "a": "b"}


def test_random_names_survive(tmp_path: Path) -> None:
    chance = random.Random(5)
    names = {"".join(chance.choices('ab ,"#\n\r\t\\/\udc80\u2028é', k=chance.randrange(1, 7))) for _ in range(500)}
    names -= {name for name in names if name.startswith("./")}
    assert set(read_exclude(file(tmp_path, "".join(map(exclude_line, names))))) == names
    table = RELABEL_HEADER + "".join(relabel_row(name, "x") for name in names)
    assert set(read_relabel(file(tmp_path, table))) == names


def test_only_names_that_need_it_are_json() -> None:
    assert written("cats/é b.jpg") == "cats/é b.jpg"
    assert written("#1/a.jpg") == '"#1/a.jpg"'
    assert csv_row(["a,b", 1]) == '"a,b",1\n'


@pytest.mark.parametrize("encode", [str.encode, lambda text: codecs.BOM_UTF8 + text.encode(),
                                    lambda text: text.encode("utf-16")])  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_files_of_other_editors(tmp_path: Path, encode: object, end: str) -> None:
    assert callable(encode)
    lines = ["# extra copies", "", "cats/é.jpg", "  ./dogs/2.jpg\t", "cats/é.jpg", "dogs/3.jpg"]
    found = read_exclude(file(tmp_path, encode(end.join(lines))))
    assert found == {"cats/é.jpg": 3, "dogs/2.jpg": 4, "dogs/3.jpg": 6}
    table = ["Image, label ,note", "cats/é.jpg,dogs,sure", "", "dogs/2.jpg,cats", "cats/é.jpg,cats,no"]
    relabelled = read_relabel(file(tmp_path, encode(end.join(table))), ["cats", "dogs"])
    assert list(relabelled.items()) == [("dogs/2.jpg", "cats"), ("cats/é.jpg", "cats")]


def test_names_with_line_breaks_in_the_csv_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([["label", "image"], ["b", "cats/a\nb.jpg"], ["c", "d"]])
    assert list(read_rows(path, ("image", "label"))) == [(3, ("cats/a\nb.jpg", "b")), (4, ("d", "c"))]


def test_an_empty_list_excludes_nothing(tmp_path: Path) -> None:
    assert read_exclude(file(tmp_path, "")) == {}
    assert read_relabel(file(tmp_path, RELABEL_HEADER)) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; its first line must name its columns"),
        ("\n\n", "is empty"),
        ("image;label\na;b\n", "has no column image; its first line is image;label"),
        ("image,class\na,b\n", "has no column label"),
        ("image,label\na,cats\nc\n", "line 3 has no label"),
        ("image,label\n,b\n", "line 2 has no image"),
        ('image,label\n"a,b\n', "is no CSV: unexpected end of data"),
        ('image,label\n"""a",b\n', "line 2 begins with a quotation mark and is no JSON string"),
        ("image,label\na,cats\nb,birds\n", "line 3 gives b the class birds, which does not exist; "
                                           "the classes are cats, dogs"),
        (b"image,label\n\xff,cats\n", r"is not UTF-8 \(byte 12\); save it as UTF-8"),
    ],
)  # fmt: skip
def test_faults_of_relabel_are_one_line_with_the_place(tmp_path: Path, content: bytes | str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_relabel(file(tmp_path, content), ["cats", "dogs"])
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "list") in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [('a\n"b\n', "line 2 begins with a quotation mark"), (b"a\n\xe9\n", "is not UTF-8")],
)
def test_faults_of_exclude(tmp_path: Path, content: bytes | str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_exclude(file(tmp_path, content))


def test_a_folder_or_nothing_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder; expected a text file"):
        read_exclude(tmp_path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_relabel(tmp_path / "none.csv")

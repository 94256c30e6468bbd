"""What is suspect, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from examined_folder import write_examined_folder

from cnn_tl.core.errors import ArtefactError, DataError
from cnn_tl.data.corrections import csv_row, written
from cnn_tl.serving.review.suspects import read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_examined_folder(tmp_path)


def test_each_image_once_in_order_of_harm(folder: Path) -> None:
    found = read(folder)
    assert [one.kind for one in found.suspects] == ["leaks"] * 2 + ["labels"] * 4 + ["twins"] + ["outliers"] * 2
    shown = [found.images[index].path for one in found.suspects for index in one.images]
    assert len(shown) == len(set(shown)) == 7 + 4 + 2
    assert not any("plain" in path for path in shown)  # their pair is not verified
    assert found.file(0).is_file()


def test_what_is_said_and_proposed(folder: Path) -> None:
    found = read(folder)
    conflict, leak, label, *_ = found.suspects
    assert conflict.why == ("One image in train and test, in 2 classes (cat, dog): 2 copies.", "How alike: near.")
    assert leak.why[1] == "How alike: near (probability 0.90)."
    assert leak.why[0] == "One image in train and test: 2 copies."
    for group in (conflict, leak):  # the copy in test stays
        assert [found.images[group.images[place]].split for place in group.marked] == ["train"]
    assert (conflict.suggested, leak.suggested) == (0, None)
    assert label.why == ("Labelled cat (probability 0.10), looks like dog.",)
    assert (label.suggested, [title for title, _ in label.beside]) == (1, ["typical of cat", "typical of dog"])
    for _, them in label.beside:
        assert all("plain" in found.images[index].path for index in them)
    copies = found.suspects[6]
    assert copies.why[0] == "One image in one split and one class: 3 copies."
    assert len(copies.marked) == 2
    assert found.suspects[-1].why == ("Much darker than the others.",)


def test_a_doubtful_label_in_a_group_is_said_there_only(folder: Path) -> None:
    labels = folder / "labels.csv"
    text = labels.read_text().replace("train/dog/b.png,dog,dog,", "train/dog/b.png,dog,<b>owl</b>,")
    lines = [f"{line[:-5]}True" if line.startswith("train/dog/b.png") else line for line in text.splitlines()]
    labels.write_text("\n".join(lines) + "\n")
    found = read(folder)
    assert [one.kind for one in found.suspects].count("labels") == 4
    assert found.suspects[1].suggested == 2
    assert found.suspects[1].why[2] == "train/dog/b.png: Labelled dog (probability 0.10), looks like <b>owl</b>."


def test_neighbours_are_shown_if_doctor_names_them(folder: Path) -> None:
    (folder / "neighbours.csv").write_text("image,neighbour\ntrain/cat/label 0.png,train/dog/plain_1.png\n")
    found = read(folder)
    title, them = found.suspects[2].beside[0]
    assert (title, [found.images[index].path for index in them]) == (
        "nearest with another label",
        ["train/dog/plain_1.png"],
    )


def test_files_may_be_missing(folder: Path) -> None:
    for name in ("twins.csv", "outliers.csv"):
        (folder / name).unlink()
    assert {one.kind for one in read(folder).suspects} == {"labels"}
    (folder / "labels.csv").unlink()
    assert read(folder).suspects == ()


def test_groups_grow_together_through_pairs(folder: Path) -> None:
    names = [f"train/cat/plain_{n}.png" for n in range(0, 12, 2)]
    pairs = [(0, 1), (2, 3), (4, 5), (1, 2), (5, 0)]
    rows = [f"{names[a]},{names[b]},train,train,near,1,0,True\n" for a, b in pairs]
    (folder / "twins.csv").write_text("image_a,image_b,split_a,split_b,kind,score,group,verified\n" + "".join(rows))
    found = read(folder)
    (group,) = [one for one in found.suspects if one.kind == "twins"]
    assert {found.images[index].path for index in group.images} == set(names)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "train/../../x.png", "a\0b.png", "."])
def test_paths_that_lead_out_are_refused(folder: Path, name: str) -> None:
    with (folder / "outliers.csv").open("a") as stream:
        stream.write(csv_row([written(name), "cat", "dark", 1, 1]))
    with pytest.raises(DataError, match=r"outliers\.csv, line 4 names .* outside of the data"):
        read(folder)


def test_a_class_that_does_not_exist_is_named(folder: Path) -> None:
    with (folder / "outliers.csv").open("a") as stream:
        stream.write("train/x.png,fish,dark,1,1\n")
    with pytest.raises(DataError, match=r"names the class fish, which summary\.json lacks"):
        read(folder)


def test_other_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"holds no summary\.json; name the folder that `cnn-tl doctor"):
        read(tmp_path)
    summary = folder / "summary.json"
    for text in ("{}", "[]", '{"data": {"root": 3}, "classes": []}', '{"data": {"root": "x"}, "classes": [1]}'):
        summary.write_text(text)
        with pytest.raises(ArtefactError, match="names no data folder"):
            read(folder)
    summary.write_text('{"data": {"root": "%s"}, "classes": ["cat"]}' % (tmp_path / "gone"))
    with pytest.raises(DataError, match="is no folder any more"):
        read(folder)

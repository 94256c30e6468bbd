"""The log and the two files: nothing answered is lost, nothing of others is lost, undo takes back exactly one."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from examined_folder import excluded, rows

from cnn_tl.core.errors import ArtefactError, DataError, ResourceError
from cnn_tl.core.files import write_text
from cnn_tl.data.corrections import read_exclude, read_relabel
from cnn_tl.doctor import decisions
from cnn_tl.doctor.decisions import Decisions, Verdict

HOSTILE = ("a\nb.jpg", "#c.jpg", ' "d".jpg', "e\udcff.jpg", 'comma, quote".jpg', "f.jpg")


def reopened(one: Decisions) -> Decisions:
    one.close()
    return Decisions(one.folder)


def test_each_decision_is_in_its_file_and_undone_in_order(tmp_path: Path) -> None:
    held = Decisions(tmp_path)
    held.decide([Verdict("a.jpg", "exclude")])
    held.decide([Verdict("b.jpg", "relabel", "dog")])
    held.decide([Verdict("c.jpg", "keep", "cat")])
    assert (excluded(tmp_path), rows(tmp_path / "relabel.csv")) == (["a.jpg"], [["b.jpg", "dog"]])
    held = reopened(held)
    assert set(held.verdicts) == {"a.jpg", "b.jpg", "c.jpg"}
    assert held.undo() == ["c.jpg"]
    assert held.undo() == ["b.jpg"]
    assert (excluded(tmp_path), rows(tmp_path / "relabel.csv")) == (["a.jpg"], [])
    held = reopened(held)
    assert held.undo() == ["a.jpg"]
    assert held.undo() == []
    assert (excluded(tmp_path), held.verdicts) == ([], {})
    assert "decided in" not in (tmp_path / "exclude.txt").read_text()


def test_a_later_decision_counts_and_its_undo_brings_the_earlier_one_back(tmp_path: Path) -> None:
    held = Decisions(tmp_path)
    for label in ("dog", "owl", "dog"):
        held.decide([Verdict("a.jpg", "relabel", label)])
        assert rows(tmp_path / "relabel.csv") == [["a.jpg", label]]
    held.decide([Verdict("a.jpg", "exclude")])
    held.decide([Verdict("a.jpg", "exclude")])
    assert (excluded(tmp_path), rows(tmp_path / "relabel.csv")) == (["a.jpg"], [])
    held.undo()
    assert excluded(tmp_path) == ["a.jpg"]
    held.undo()
    assert (excluded(tmp_path), rows(tmp_path / "relabel.csv")) == ([], [["a.jpg", "dog"]])
    held.undo()
    assert rows(tmp_path / "relabel.csv") == [["a.jpg", "owl"]]


def test_lines_of_others_stay(tmp_path: Path) -> None:
    mine = "# extra copies\r\na.jpg\r\n\r\n./b.jpg\r\n"
    (tmp_path / "exclude.txt").write_bytes(mine.encode())
    (tmp_path / "relabel.csv").write_text("Label,note,image\ndog,seen,x.jpg\n")
    held = Decisions(tmp_path)
    held.decide([Verdict("a.jpg", "exclude"), Verdict("c.jpg", "exclude")])
    held.decide([Verdict("x.jpg", "relabel", "dog"), Verdict("y.jpg", "relabel", "cat")])
    assert list(read_exclude(tmp_path / "exclude.txt")) == ["a.jpg", "b.jpg", "c.jpg"]
    assert rows(tmp_path / "relabel.csv") == [["dog", "seen", "x.jpg"], ["cat", "", "y.jpg"]]
    with (tmp_path / "exclude.txt").open("a") as stream:
        stream.write("by_hand.jpg\n")
    held.undo()
    held.undo()
    assert (tmp_path / "exclude.txt").read_text() == "# extra copies\na.jpg\n\n./b.jpg\nby_hand.jpg\n"
    assert rows(tmp_path / "relabel.csv") == [["dog", "seen", "x.jpg"]]


def test_keeping_overrules_what_the_files_say_and_undo_restores_it(tmp_path: Path) -> None:
    (tmp_path / "exclude.txt").write_text("a.jpg\n./b.jpg\n" + json.dumps("#c.jpg") + "\n")
    (tmp_path / "relabel.csv").write_text("image,label\na.jpg,dog\n")
    before = (tmp_path / "exclude.txt").read_text()
    held = Decisions(tmp_path)
    held.decide([Verdict("a.jpg", "keep", "cat"), Verdict("b.jpg", "keep", "cat"), Verdict("#c.jpg", "relabel", "owl")])
    assert list(read_exclude(tmp_path / "exclude.txt")) == []
    assert read_relabel(tmp_path / "relabel.csv") == {"a.jpg": "cat", "#c.jpg": "owl"}
    assert "# kept in review: a.jpg\n" in (tmp_path / "exclude.txt").read_text()
    held.decide([Verdict("a.jpg", "exclude")])
    assert list(read_exclude(tmp_path / "exclude.txt")) == ["a.jpg"]
    held = reopened(held)
    held.undo()
    held.undo()
    assert (tmp_path / "exclude.txt").read_text() == before
    assert read_relabel(tmp_path / "relabel.csv") == {"a.jpg": "dog"}


def test_hostile_names_come_back_as_they_were(tmp_path: Path) -> None:
    held = Decisions(tmp_path)
    for name in HOSTILE:
        held.decide([Verdict(name, "exclude")])
    for name in HOSTILE:
        held.decide([Verdict(f"x{name}", "relabel", name)])
    held = reopened(held)
    assert set(read_exclude(tmp_path / "exclude.txt")) == set(HOSTILE)
    assert read_relabel(tmp_path / "relabel.csv") == {f"x{name}": name for name in HOSTILE}
    for _ in range(2 * len(HOSTILE)):
        held.undo()
    assert (read_exclude(tmp_path / "exclude.txt"), read_relabel(tmp_path / "relabel.csv")) == ({}, {})


def test_a_log_cut_anywhere_loses_only_its_last_line(tmp_path: Path) -> None:
    held = Decisions(tmp_path)
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        held.decide([Verdict(name, "exclude")])
    held.undo()
    held.close()
    log = tmp_path / "decisions.jsonl"
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    expected = [[], ["a.jpg"], ["a.jpg", "b.jpg"], ["a.jpg", "b.jpg", "c.jpg"], ["a.jpg", "b.jpg"]]
    for length in range(len(whole) + 1):
        log.write_bytes(whole[:length])
        held = Decisions(tmp_path)
        complete = whole[:length].count(b"\n")
        assert list(held.verdicts) == expected[complete]
        assert log.read_bytes() == b"".join(lines[:complete])
        if complete == len(lines) or whole[length : length + 1] == b"":
            assert excluded(tmp_path) == expected[complete]
        held.close()


@pytest.mark.parametrize("seed", range(5))
def test_a_kill_between_the_log_and_the_files_is_made_good(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random decisions, each with a chance that the process dies before a file is written; a model says what holds."""
    chance = random.Random(seed)
    (tmp_path / "exclude.txt").write_text("i0.jpg\n")
    stack: list[Verdict] = []

    def dies_at_times(path: Path, text: str) -> None:
        if chance.random() < 0.3:
            raise OSError("killed")
        write_text(path, text)

    for _ in range(60):
        monkeypatch.setattr(decisions, "write_text", dies_at_times)
        try:
            held = Decisions(tmp_path)
        except OSError:  # while it was making good
            continue
        choice = chance.choice(["exclude", "relabel", "keep", "undo"])
        image = f"i{chance.randrange(4)}.jpg"
        try:
            if choice == "undo":
                if stack:
                    stack.pop()
                held.undo()
            else:
                label = {"relabel": chance.choice(["dog", "owl"]), "keep": "cat"}.get(choice)
                stack.append(Verdict(image, choice, label))  # type: ignore[arg-type]
                held.decide(stack[-1:])
        except OSError:
            pass
        held.close()
        monkeypatch.setattr(decisions, "write_text", write_text)
        Decisions(tmp_path).close()
        holds = {one.image: one for one in stack}
        expected = {name for name, one in holds.items() if one.choice == "exclude"}
        expected |= {"i0.jpg"} - set(holds)
        assert set(excluded(tmp_path)) == expected
        relabelled = read_relabel(tmp_path / "relabel.csv") if (tmp_path / "relabel.csv").exists() else {}
        assert relabelled == {name: one.label for name, one in holds.items() if one.choice == "relabel"}


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Decisions(tmp_path)
    held.decide([Verdict("a.jpg", "exclude")])
    whole = (tmp_path / "decisions.jsonl").read_bytes()
    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 10:
            return real(descriptor, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ResourceError, match="no space"):
        held.decide([Verdict("b" * 90, "exclude")])
    monkeypatch.undo()
    assert (tmp_path / "decisions.jsonl").read_bytes() == whole
    assert list(held.verdicts) == ["a.jpg"]
    held.decide([Verdict("c.jpg", "exclude")])
    assert excluded(tmp_path) == ["a.jpg", "c.jpg"]


def test_two_reviews_of_a_folder_are_refused(tmp_path: Path) -> None:
    held = Decisions(tmp_path)
    with pytest.raises(ResourceError, match="is being reviewed already"):
        Decisions(tmp_path)
    held.close()
    Decisions(tmp_path).close()


@pytest.mark.parametrize(
    "line", ["nonsense", "[]", '{"at": "x"}', '{"undone": 1}', '{"decided": [{"choice": "keep"}]}']
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "decisions.jsonl").write_text(f"{line}\n")
    with pytest.raises(ArtefactError, match=r"decisions\.jsonl, line 1 is damaged; remove it"):
        Decisions(tmp_path)
    (tmp_path / "decisions.jsonl").write_text("")
    Decisions(tmp_path).close()  # the lock was given back


def test_a_damaged_list_is_named_and_nothing_is_recorded(tmp_path: Path) -> None:
    held = Decisions(tmp_path)
    (tmp_path / "exclude.txt").write_text('"no end\n')
    with pytest.raises(DataError, match=r"exclude\.txt, line 1"):
        held.decide([Verdict("a.jpg", "exclude")])
    assert (tmp_path / "decisions.jsonl").read_bytes() == b""


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "decisions.jsonl").mkdir()
    with pytest.raises(ResourceError, match="copy the folder to where you may write"):
        Decisions(tmp_path)


def test_files_that_doctor_writes_anew_get_the_decisions_again(tmp_path: Path) -> None:
    held = Decisions(tmp_path)
    held.decide([Verdict("a.jpg", "exclude"), Verdict("b.jpg", "relabel", "dog"), Verdict("c.jpg", "keep", "cat")])
    held.close()
    (tmp_path / "exclude.txt").write_text("# extra copies\nc.jpg\nz.jpg\n")
    (tmp_path / "relabel.csv").write_text("image,label\n")
    Decisions(tmp_path).close()
    assert excluded(tmp_path) == ["z.jpg", "a.jpg"]
    assert rows(tmp_path / "relabel.csv") == [["b.jpg", "dog"]]

"""`cnn-tl doctor` as a user meets it: a folder with planted faults in, findings and lists out."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.data.corrections import read_exclude, read_relabel
from cnn_tl.doctor.decisions import Decisions, Verdict

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with an equal copy of a training image in val, one in another class, and one beside it."""
    random = np.random.default_rng(0)
    for split, count in (("train", 14), ("val", 5)):
        for index, name in enumerate(("a", HOSTILE)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(90 + 60 * index + random.normal(0, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).resize((64, 64)).save(folder / f"{number}.png")
    root = tmp_path / "photos"
    shutil.copy(root / "train" / "a" / "1.png", root / "val" / "a" / "leak.png")
    shutil.copy(root / "train" / "a" / "2.png", root / "train" / HOSTILE / "conflict.png")
    shutil.copy(root / "train" / "a" / "3.png", root / "train" / "a" / "again.png")
    return root


@pytest.fixture
def doctor(cli: Callable[..., Any], tiny_weights: Path) -> Callable[..., Any]:
    flags = ("--model", "test_resnet", "--weights", tiny_weights, "--set", "model.image_size=64", "--device", "cpu")
    return lambda *arguments: cli("doctor", *arguments, *flags)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_planted_faults_are_found_in_order_of_harm(doctor: Callable[..., Any], photos: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in photos.rglob("*")}
    done = doctor(photos)
    assert done.code == 0
    text = " ".join(done.out.split())
    places = [text.index(kind) for kind in ("leaks 1 image of val has a twin", "conflicts 2 images in 1 group")]
    assert places == sorted(places)
    assert "twins 1 further copy" in text
    assert "val/a/leak.png" in text
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in photos.rglob("*")} == before


def test_lists_name_every_image_and_the_sure_ones(doctor: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    done = doctor(photos, "--output", folder, "--json")
    summary = json.loads(done.out)
    listed = {"exclude": list(read_exclude(folder / "exclude.txt")), "relabel": {}}
    only_there = {"written_by": "cnn-tl doctor", "listed": listed}
    assert json.loads((folder / "summary.json").read_text("utf-8")) == summary | only_there
    assert summary["data"]["root"] == str(photos.resolve())
    assert summary["classes"] == [HOSTILE, "a"]
    assert [one["kind"] for one in summary["findings"]][:2] == ["leaks", "conflicts"]
    equal = {
        frozenset((row["image_a"], row["image_b"])) for row in rows(folder / "twins.csv") if row["score"] == "1.0000"
    }
    assert frozenset(("train/a/1.png", "val/a/leak.png")) in equal
    assert {row["image"] for row in rows(folder / "labels.csv")} == {
        path.relative_to(photos).as_posix() for path in photos.rglob("*.png")
    }
    scores = [float(row["score"]) for row in rows(folder / "labels.csv")]
    assert scores == sorted(scores, reverse=True)
    assert {"train/a/1.png", "train/a/again.png"} & set(read_exclude(folder / "exclude.txt")) != set()
    assert "val/a/leak.png" not in read_exclude(folder / "exclude.txt")
    assert read_relabel(folder / "relabel.csv") == {}
    page = (folder / "index.html").read_text("utf-8")
    assert HOSTILE not in page
    assert "Images of one split in another" in page


@pytest.mark.parametrize(
    ("kinds", "code", "message"),
    [
        ("leaks", 3, "found 1 leaks (--fail-on leaks)"),
        ("all", 3, "1 leaks, 2 conflicts"),
        ("leak", 2, "the kinds are leaks, conflicts, labels"),
        ("", 2, "the kinds are leaks"),
    ],
)
def test_fail_on(doctor: Callable[..., Any], photos: Path, kinds: str, code: int, message: str) -> None:
    done = doctor(photos, "--fail-on", kinds)
    assert done.code == code
    assert message in " ".join(done.err.split())


def test_a_folder_that_is_not_its_own_is_refused(doctor: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years")
    file = tmp_path / "file"
    file.write_text("x")
    for place, message in ((mine, "holds other files"), (photos / "found", "inside the data"), (file, "is a file")):
        done = doctor(photos, "--output", place)
        assert (done.code, message in " ".join(done.err.split())) == (2, True)
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


def test_decisions_outlive_a_second_examination(doctor: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    assert doctor(photos, "--output", folder).code == 0
    decisions = Decisions(folder)
    decisions.decide([Verdict("train/a/7.png", "exclude")])
    decisions.decide([Verdict("train/a/8.png", "relabel", HOSTILE)])
    refused = doctor(photos, "--output", folder)
    assert (refused.code, "being reviewed" in refused.err) == (5, True)
    decisions.close()
    assert doctor(photos, "--output", folder).code == 0
    assert "train/a/7.png" in read_exclude(folder / "exclude.txt")
    assert read_relabel(folder / "relabel.csv") == {"train/a/8.png": HOSTILE}


@pytest.mark.parametrize("reviewed", [False, True])
def test_lines_written_by_hand_outlive_further_examinations(
    doctor: Callable[..., Any], photos: Path, tmp_path: Path, reviewed: bool
) -> None:
    folder = tmp_path / "found"
    assert doctor(photos, "--output", folder).code == 0
    own = set(read_exclude(folder / "exclude.txt"))
    with (folder / "exclude.txt").open("a") as exclude, (folder / "relabel.csv").open("a") as relabel:
        exclude.write("train/a/9.png\n")
        relabel.write(f"train/a/6.png,{HOSTILE}\n")
    if reviewed:
        decisions = Decisions(folder)
        decisions.decide([Verdict("train/a/7.png", "exclude")])
        decisions.undo()
        decisions.close()
    for _ in range(2):
        assert doctor(photos, "--output", folder).code == 0
        assert set(read_exclude(folder / "exclude.txt")) == own | {"train/a/9.png"}
        assert rows(folder / "relabel.csv") == [{"image": "train/a/6.png", "label": HOSTILE}]


def test_a_run_tells_its_accuracy_with_and_without_the_leak(
    doctor: Callable[..., Any], cli: Callable[..., Any], photos: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    run = tmp_path / "run"
    flags = ("--model", "test_resnet", "--weights", tiny_weights, "--image-size", 64, "--device", "cpu")
    assert cli("train", photos, *flags, "--output", run).code == 0
    done = cli("doctor", run, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)["leaked_accuracy"][0]
    assert (found["split"], found["leaked"]["images"]) == ("val", 1)
    assert found["all"]["correct"] == found["leaked"]["correct"] + found["clean"]["correct"]
    assert "val/a/leak.png" in cli("doctor", run).out
    assert cli("doctor", run, "--device", "cuda").code == 5  # where the run was trained, there may be one
    refused = doctor(run)
    assert (refused.code, "is a run, which has its own recipe" in " ".join(refused.err.split())) == (2, True)
    page = cli("report", run, "--json", "--heat-maps", "none")
    assert json.loads(page.out)["facts"]["data"]["doctor"]["findings"][0][0] == "leaks"


def test_broken_images_are_a_finding_and_no_hint_names_doctor(doctor: Callable[..., Any], photos: Path) -> None:
    (photos / "train" / "a" / "4.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    done = doctor(photos, "--fail-on", "broken")
    assert (done.code, "broken 1 image cannot be read" in " ".join(done.out.split())) == (3, True)
    assert "train/a/4.png" in done.out
    assert "lists them" not in done.out + done.err


def test_a_folder_without_val_is_examined_as_it_is(doctor: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    done = doctor(photos / "train", "--output", tmp_path / "found")
    found, _, missing = done.out.partition("not found: ")
    assert "leaks" not in found
    assert missing.startswith("leaks")
    assert "data.groups: twins keeps copies on one side" in " ".join(done.out.split())
    assert {row["split_b"] for row in rows(tmp_path / "found" / "twins.csv")} == {"train"}
    summary = json.loads((tmp_path / "found" / "summary.json").read_text("utf-8"))
    assert summary["data"]["images"]["a"] == {"train": 15, "val": 0, "test": 0}


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_images_is_refused(doctor: Callable[..., Any], tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    assert doctor(tmp_path / name).code == 3


def test_corrections_that_the_data_have_already_stay_in_the_lists(
    doctor: Callable[..., Any], photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "found"
    assert doctor(photos, "--output", folder).code == 0
    decisions = Decisions(folder)
    decisions.decide([Verdict("train/a/9.png", "relabel", HOSTILE)])
    decisions.close()
    (folder / "relabel.csv").write_text((folder / "relabel.csv").read_text("utf-8") + f"train/a/8.png,{HOSTILE}\n")
    excluded, labels = set(read_exclude(folder / "exclude.txt")), read_relabel(folder / "relabel.csv")
    assert (len(excluded), len(labels)) == (2, 2)
    corrected = (f"data.exclude={folder}/exclude.txt", f"data.relabel={folder}/relabel.csv")
    assert doctor(photos, "--output", folder, "--set", corrected[0], "--set", corrected[1]).code == 0
    assert set(read_exclude(folder / "exclude.txt")) >= excluded
    assert read_relabel(folder / "relabel.csv") == labels

"""`cnn-tl evaluate` as a user meets it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.abstention.rule import Rule
from cnn_tl.core.errors import UsageError
from cnn_tl.core.files import sha256_file
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.evaluating import evaluate as evaluating
from cnn_tl.inference.classifier import Classifier

SPEC = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def by_brightness(pixels: Any) -> Any:
    light = pixels.mean(axis=(1, 2, 3)) > 128
    return np.where(np.stack([~light, light], axis=1), 4.5, 0).astype(np.float32)


@pytest.fixture(autouse=True)
def _model_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work beside a folder of two classes; the model tells dark from light, and one image is in the wrong folder."""
    monkeypatch.chdir(tmp_path)
    for name, colours in {"dark": ["black", "white", "navy"], "light": ["ivory"]}.items():
        folder = Path("photos", name)
        folder.mkdir(parents=True)
        for number, colour in enumerate(colours):
            Image.new("RGB", (20, 20), colour).save(folder / f"{number}.png")
    model = Classifier(("dark", "light"), SPEC, by_brightness)
    monkeypatch.setattr(evaluating, "load", lambda source, device, **_: model)


def test_tables(cli: Callable[..., Any]) -> None:
    done = cli("evaluate", "run", "photos")
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    folded = " ".join(lines)
    assert "accuracy 75.0% 3 right" in lines
    assert "majority-class baseline 75.0% always dark, most common here, as that in training is not known" in folded
    assert "macro 83.3% 75.0% 73.3% each class weighs the same" in lines
    assert "weighted 75.0% 87.5% 76.7% by images" in lines
    assert "dark 2 / 3 2 / 2 66.7% 100.0% 80.0%" in lines
    assert "light 1 / 1 1 / 2 100.0% 50.0% 66.7%" in lines
    assert "top-" not in done.out  # of two classes, both are always among the two most probable
    assert "dark light 1" in lines
    assert "it is not known whether the model was trained on them" in " ".join(lines)


def test_files_of_all_that_was_found(cli: Callable[..., Any]) -> None:
    done = cli("evaluate", "run", "photos", "--wrong", "w.csv", "--answers", "a.jsonl", "--report", "r.html")
    assert done.code == 0
    for said in ("the wrong images are in w.csv", "the answers are in a.jsonl", "the report is in r.html"):
        assert said in done.err
    digests = {path.name: sha256_file(path) for path in Path("photos/dark").iterdir()}
    with Path("w.csv").open(newline="") as stream:
        [row] = csv.DictReader(stream)
    assert (row["file"], row["label"], row["predicted"]) == ("dark/1.png", "dark", "light")
    assert row["sha256"] == digests["1.png"]
    answers = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert [one["file"] for one in answers] == ["dark/0.png", "dark/1.png", "dark/2.png", "light/0.png"]
    assert [one["sha256"] for one in answers[:3]] == [digests[f"{k}.png"] for k in range(3)]
    assert "dark/1.png" in Path("r.html").read_text()
    again = cli("evaluate", "run", "photos", "--wrong", "w.csv", "--report", "r.html", "--json")
    assert json.loads(again.out)["macro"]["f1"] == pytest.approx((0.8 + 2 / 3) / 2)


def test_top_k_is_printed_where_there_are_more_classes(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def second_best(pixels: Any) -> Any:
        others = np.tile(np.array([3.0, 0, 0, 0, 0]), (len(pixels), 1))
        return np.concatenate([by_brightness(pixels) / 9, others], axis=1).astype(np.float32)

    model = Classifier(("dark", "light", "always", "x", "y", "z", "w"), SPEC, second_best)
    monkeypatch.setattr(evaluating, "load", lambda source, device, **_: model)
    done = cli("evaluate", "run", "photos")
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "accuracy 0.0% 0 right" in lines
    assert "top-5 accuracy 100.0% the class is among the 5 most probable" in lines


def test_robustness_as_tables_and_a_plot(cli: Callable[..., Any]) -> None:
    done = cli("evaluate", "run", "photos", "--robustness", "--output", "plot.png")
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "none 75.0% 100.0% 4" in lines
    assert "shift 0.5% 75.0% 100.0% 16" in lines
    assert "the plot is in plot.png" in done.err
    with Image.open("plot.png") as plot:
        assert plot.width == 1600


def test_json_and_a_broken_image(cli: Callable[..., Any]) -> None:
    Path("photos/light/broken.png").write_bytes(Path("photos/light/0.png").read_bytes()[:50])
    done = cli("evaluate", "run", "photos", "--json")
    found = json.loads(done.out)
    assert (done.code, found["images"]) == (0, 4)
    assert found["unreadable"][0][0] == str(Path("photos/light/broken.png").resolve())
    assert "warning: " in done.err
    assert "is not counted" in done.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["photos", "--output", "plot.png"], 2, "--output is the file for the plot of --robustness"),
        (["photos", "--robustness", "--output", "plot.jpg"], 2, "ends in .png"),
        (["photos", "--robustness", "--output", "photos"], 2, "photos is a folder; name the file"),
        (["photos", "--wrong", "photos/dark/0.png"], 2, "--wrong photos/dark/0.png is named like an image"),
        (["photos", "--report", "r.txt"], 2, "--report r.txt: the page is HTML"),
        (["photos", "--wrong", "a", "--answers", "a"], 2, "--wrong and --answers are the same file"),
        (["photos", "--split", "val"], 2, "has no splits (train, val, test)"),
        (["photos", "--part", "val"], 2, "has no splits (train, val, test)"),
        (["photos/dark"], 3, "images directly in"),
        (["absent"], 3, "does not exist"),
        (["photos", "--limit", "0"], 2, "--limit"),
    ],
)
def test_refusals(cli: Callable[..., Any], arguments: list[str], code: int, said: str) -> None:
    done = cli("evaluate", "run", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.count("error: ") == 1


class _Thresholds:
    """Half of the answers may be wrong from 80% on, and fewer never; beyond distance 1 all is unknown."""

    def rule(self, max_error: float | None = None, unknown: float | None = None) -> Rule:
        if max_error is not None and max_error < 0.5:
            raise UsageError("--max-error: there are 7 held-out images")
        return Rule(0.0 if max_error is None else 0.8, 1.0, np.array([0.1, 0.1]), max_error is not None)


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the model call yellow unknown, and keep thresholds."""

    def with_distance(pixels: Any) -> Any:
        far = np.abs(pixels[..., 0].astype(int) - pixels[..., 2]).mean((1, 2)) / 150
        return np.concatenate([by_brightness(pixels), far[:, None]], axis=1).astype(np.float32)

    model = Classifier(("dark", "light"), SPEC, with_distance, thresholds=_Thresholds())
    monkeypatch.setattr(evaluating, "load", lambda source, device, **_: model)
    Path("foreign/deep").mkdir(parents=True)
    for name, colour in {"deep/yellow": "yellow", "gold": "gold", "grey": "grey"}.items():
        Image.new("RGB", (20, 20), colour).save(f"foreign/{name}.png")


@pytest.mark.usefixtures("judging")
def test_what_not_answering_gains(cli: Callable[..., Any]) -> None:
    asked = ["--max-error", "50%", "--unknown", "2%", "--unknown-images", "foreign"]
    done = cli("evaluate", "run", "photos", *asked, "--report", "r.html")
    assert done.code == 0
    page = Path("r.html").read_text("utf-8")
    for part in ("What would not answering gain?<", "When not to answer", "1 of 4 wrong", " ".join(asked)):
        assert part in page
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    folded = " ".join(lines)
    assert "100% 25.0% from 98.9% all images" in lines
    assert "100.0% 25.0% from 80.0% --max-error: 4 images" in lines
    assert "wrong if answered 25.0% promised: at most 50%; 1 of 4 wrong, 95% interval 4.6% - 69.9%" in folded
    assert "set holds the class 75.0% promised: 95%; 95% interval 30.1% - 95.4%" in lines
    assert "classes in a set 1.00 100.0% of the sets have one class" in lines
    assert "unknown images 3 foreign" in lines
    assert "called unknown 66.7% of these" in lines
    assert "answered 33.3% of these: the fewer, the better" in lines
    assert "AUROC, distance 0.750 how well it tells them apart; 0.5 is chance" in lines


@pytest.mark.usefixtures("judging")
def test_what_cannot_be_promised_is_said_in_the_table(cli: Callable[..., Any]) -> None:
    done = cli("evaluate", "run", "photos", "--max-error", "5%")
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    assert "wrong if answered - there are 7 held-out images" in lines
    found = json.loads(cli("evaluate", "run", "photos", "--max-error", "0.05", "--json").out)["abstention"]
    assert (found["promise"]["error"], found["promise"]["max_error"]) == (None, 0.05)
    assert found["risk"][0]["error"] == 0.25


@pytest.mark.usefixtures("judging")
def test_the_plot_of_errors_by_the_share_answered(cli: Callable[..., Any]) -> None:
    done = cli("evaluate", "run", "photos", "--max-error", "50%", "--risk-plot", "risk.png")
    assert done.code == 0
    assert "the plot of errors by the share answered is in risk.png" in done.err
    assert Path("risk.png").read_bytes().startswith(b"\x89PNG")
    refused = cli("evaluate", "run", "photos", "--robustness", "--output", "a.png", "--risk-plot", "a.png")
    assert refused.code == 2
    assert "--risk-plot and --output are the same file" in refused.err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-error", "5"), "'5' is not a share above 0% and below 100%; write for example 5% or 0.05"),
        (("--unknown", "0%"), "--unknown: '0%' is not a share"),
        (("--max-error", "5%"), "the model keeps no held-out answers; train it again with this version"),
    ],
)
def test_promises_that_make_no_sense_are_refused(cli: Callable[..., Any], options: tuple[str, ...], said: str) -> None:
    done = cli("evaluate", "run", "photos", *options)
    assert done.code == 2
    assert said in done.err

"""The files of an evaluation: where they may lie, images in odd folders, and what a page says of training images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_tl.core.errors import ResourceError, UsageError
from cnn_tl.evaluating.evaluate import EvaluationOptions, evaluate
from cnn_tl.reporting.evaluation_files import EvaluationFiles
from cnn_tl.reporting.report import PageOptions, report_of_evaluation


def test_new_files_and_own_ones_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("file\n")
    places = EvaluationFiles(tmp_path / "old.csv", tmp_path / "new" / "answers.jsonl", tmp_path / "page.html")
    places.require_places(tmp_path / "run")
    assert places.need_digests
    assert not EvaluationFiles(report=tmp_path / "page.html").need_digests


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"wrong": "a.csv", "answers": "sub/../a.csv"}, "--wrong and --answers are the same file"),
        ({"wrong": "photo.jpg"}, "--wrong .*photo.jpg is named like an image"),
        ({"answers": "sub"}, "--answers .*sub is not a regular file; name the file"),
        ({"answers": "run/validation.jsonl"}, "would overwrite part of run"),
        ({"wrong": "model.onnx"}, "--wrong .* is named like a model"),
        ({"report": "model/page.html"}, "--report .* lies in a model"),
        ({"report": "page.csv"}, "--report .* ends in .html"),
        ({"report": "theirs.html"}, "--report .* exists and is not a page of cnn-tl"),
    ],
)
def test_what_is_refused(tmp_path: Path, named: dict[str, str], said: str) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "SHA256SUMS").write_text("")
    for name in ("recipe.yaml", "manifest.json", "validation.jsonl"):
        (tmp_path / "run" / name).write_text("{}")
    (tmp_path / "theirs.html").write_text("<p>")
    places = EvaluationFiles(**{key: tmp_path / name for key, name in named.items()})
    with pytest.raises(UsageError, match=said):
        places.require_places(tmp_path / "elsewhere")


def test_a_file_in_the_way_of_the_folder_is_found_before_work_is_done(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="choose another --answers"):
        EvaluationFiles(answers=tmp_path / "file" / "answers.jsonl").require_places(tmp_path / "run")


def test_a_pipe_is_not_read_to_see_whether_it_is_a_page(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.html")
    with pytest.raises(UsageError, match="is not a page of cnn-tl"):
        EvaluationFiles(report=tmp_path / "pipe.html").require_places(tmp_path / "run")


def test_images_are_found_in_a_folder_whose_name_cannot_be_printed(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "line\nbreak \u202e" / "plain"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(5).integers(0, 256, (24, 24, 3), np.uint8)
    Image.fromarray(noise).save(folder / "one.png")
    found = evaluate(run, folder.parent, EvaluationOptions(device="cpu"))
    page = report_of_evaluation(found, PageOptions(heat_maps=False))
    assert [card.thumbnail is not None for card in page.cards.values()] == [True]
    assert not page.notes
    assert found.to_dict().keys().isdisjoint({"figures", "answers", "source", "root", "limit"})


def test_the_command_of_a_page_evaluates_as_many_images_again(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (24, 24, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    found = evaluate(run, tmp_path, EvaluationOptions(device="cpu", limit=2))
    page = report_of_evaluation(found, PageOptions(heat_maps=False))
    assert page.commands == (f"cnn-tl evaluate {run} {tmp_path} --limit 2",)


def test_the_page_of_training_images_says_that_its_figures_are_too_good(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train" / "plain"
    folder.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(6).integers(0, 256, (24, 24, 3), np.uint8)).save(folder / "one.png")
    found = evaluate(run, tmp_path, EvaluationOptions(device="cpu", split="train"))
    page = report_of_evaluation(found, PageOptions(heat_maps=False))
    assert "of 1 training image (" in page.verdict[0]
    assert "was not trained on" in page.verdict[2]
    rows = {name: remark for name, _, remark in page.tables[0].rows}
    assert rows["images"] == "the model was trained on these images, so that all figures are too good"

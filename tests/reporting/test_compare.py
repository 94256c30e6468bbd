"""Runs are compared on the images that they share, or refused with a line that says why."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.core.errors import ArtefactError, DataError, UsageError
from cnn_tl.core.statistics import compare_paired
from cnn_tl.metrics.answer_lines import answer_lines
from cnn_tl.reporting.compare import Comparison, compare
from cnn_tl.reporting.compare_page import cost_columns, page_of, write_comparison
from cnn_tl.training.run_answers import answers_of_run
from cnn_tl.training.run_folder import RunFolder

OLD = Path(__file__).parents[1] / "fixtures" / "runs_0_1"
ONE_ANSWER = '{"file": "a.png", "label": "cat", "predicted": "cat", "probability": %s}'
Edit = Callable[[list[dict[str, Any]]], object]


@pytest.fixture
def other(run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies the run and edits its answers or its manifest."""

    def make(
        name: str, answers: Edit | None = None, manifest: Callable[[dict[str, Any]], object] | None = None
    ) -> Path:
        made = Path(shutil.copytree(run, tmp_path / name))
        folder = RunFolder(made)
        if answers is not None:
            lines = [json.loads(line) for line in folder.validation.read_text("utf-8").splitlines()]
            answers(lines)
            folder.validation.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        if manifest is not None:
            stored = json.loads(folder.manifest.read_text("utf-8"))
            manifest(stored)
            folder.manifest.write_text(json.dumps(stored), "utf-8")
        return made

    return make


def all_right(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        others = [[name, 0.05] for name, _ in line["top"] if name != line["label"]]
        top = [[line["label"], 0.9], *others]
        line |= {"predicted": line["label"], "probability": 0.9, "top": top, "loss": 0.1}


def test_a_run_that_is_better_on_the_same_images(run: Path, other: Callable[..., Path]) -> None:
    found = compare([run, other("better", all_right)])
    before = answers_of_run(RunFolder(run))
    wrong = int((~before.right).sum())
    assert wrong > 5
    one = found.differences[0]
    assert found.images == 27
    assert (one.only_baseline, one.only_run) == (0, wrong)
    expected = compare_paired(before.right, np.ones(27, bool))
    assert (one.gain, one.interval, one.p) == (expected.gain, expected.interval, expected.p)
    assert one.p_corrected == one.p
    assert one.verdict.startswith(f"{found.runs[1].run} is better than {run}: +")
    assert one.images_needed is None
    assert found.runs[1].accuracy == 1
    assert found.runs[1].log_loss == pytest.approx(0.1)
    assert one.log_loss == pytest.approx(0.1 - before.losses.mean())
    assert found.notes == ()


def test_several_comparisons_are_corrected(run: Path, other: Callable[..., Path]) -> None:
    found = compare([run, other("b", all_right), other("c", all_right)])
    for one in found.differences:
        assert one.p_corrected == pytest.approx(2 * one.p)
        assert "corrected for all comparisons" in one.verdict


def test_equal_answers_cannot_be_told_apart(run: Path, other: Callable[..., Path]) -> None:
    one = compare([run, other("same")]).differences[0]
    assert one.verdict.endswith("cannot be told apart on 27 images: they are right and wrong on the same ones")
    assert (one.gain, one.p, one.images_needed) == (0, 1, None)


def test_one_image_more_says_how_many_would_be_needed(run: Path, other: Callable[..., Path]) -> None:
    def one_more(lines: list[dict[str, Any]]) -> None:
        all_right([next(line for line in lines if line["label"] != line["predicted"])])

    one = compare([run, other("b", one_more)]).differences[0]
    assert one.images_needed is not None
    assert re.search(
        r"cannot be told apart on 27 images: \+3\.7 points; about \d+ would be needed to tell", one.verdict
    )


def test_runs_that_share_some_images_are_compared_on_these(run: Path, other: Callable[..., Path]) -> None:
    dropped: set[str] = set()

    def shorter(lines: list[dict[str, Any]]) -> None:
        dropped.update(line["file"] for line in lines[:7])
        del lines[:7]

    def without_these(stored: dict[str, Any]) -> None:
        stored["images"] = [image for image in stored["images"] if image[0] not in dropped]

    found = compare([run, other("b", shorter, without_these)])
    assert found.images == 20
    shared = f"compared on the 20 images that all have, of 27 in {run}, 20 in {found.runs[1].run}"
    assert found.notes == (shared,)


def test_images_that_one_run_was_trained_on_are_left_out(run: Path, other: Callable[..., Path]) -> None:
    digests = answers_of_run(RunFolder(run)).sha256

    def leak(stored: dict[str, Any]) -> None:
        text = json.dumps(stored)
        one = next(sha for sha in trained_on(stored) if sha not in digests)
        stored |= json.loads(text.replace(one, digests[0]))

    found = compare([run, other("b", manifest=leak)])
    assert found.images == 26
    assert "left out 1 image that one of the runs was trained on" in found.notes


def trained_on(stored: dict[str, Any]) -> list[str]:
    from cnn_tl.data.manifest import Manifest

    return [image.sha256 for image in Manifest.from_json(stored).of("train")]


def test_runs_of_other_classes_or_other_images_are_refused(
    run: Path, other: Callable[..., Path], make_images: Callable[..., Path]
) -> None:
    with pytest.raises(DataError, match="different classes: only one of them knows"):
        compare([run, OLD / "freeze"])

    def others(stored: dict[str, Any]) -> None:
        text = json.dumps(stored)
        for sha in answers_of_run(RunFolder(run)).sha256:
            text = text.replace(sha, sha[::-1])
        stored |= json.loads(text)

    with pytest.raises(DataError, match="have no images in common"):
        compare([run, other("b", manifest=others)])


def test_different_classes_are_refused_before_anything_is_evaluated(
    run: Path, other: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("evaluated")

    monkeypatch.setattr("cnn_tl.evaluating.evaluate.evaluate", never)
    stranger = other("stranger")
    config = stranger / "model" / "config.json"
    stored = json.loads(config.read_text("utf-8"))
    stored["label_names"][0] = "something else"
    config.write_text(json.dumps(stored), "utf-8")
    with pytest.raises(DataError, match=r"different classes: only one of them knows .*something else"):
        compare([run, stranger], tmp_path)
    with pytest.raises(AssertionError, match="evaluated"):
        compare([run, other("same")], tmp_path)


def test_what_is_no_pair_of_finished_runs_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two"):
        compare([run])
    with pytest.raises(UsageError, match="at most 26"):
        compare([run / str(number) for number in range(27)])
    with pytest.raises(UsageError, match="is named twice"):
        compare([run, run.parent / "." / run.name])
    with pytest.raises(ArtefactError, match="is not a run folder"):
        compare([run, tmp_path])


def test_old_runs_are_compared_too() -> None:
    found = compare([OLD / "freeze", OLD / "finetune"])
    assert [one.mode for one in found.runs] == ["freeze", "finetune"]
    assert found.runs[0].log_loss is None
    assert found.differences[0].log_loss is None


def test_on_other_images_all_runs_are_evaluated_first(run: Path, other: Callable[..., Path], tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    for name in compare([run, other("b")]).classes:
        folder = tmp_path / "fresh" / name
        folder.mkdir(parents=True)
        for number in range(2):
            Image.fromarray(random.integers(0, 255, (24, 24, 3), np.uint8)).save(folder / f"{number}.png")
    found = compare([run, tmp_path / "b"], tmp_path / "fresh")
    assert found.images == 6
    assert found.runs[0].own_images == 6
    assert found.differences[0].gain == 0


def test_the_page_shows_the_images_that_only_one_gets_right(
    run: Path, other: Callable[..., Path], tmp_path: Path
) -> None:
    found: Comparison = compare([run, other("better", all_right)])
    write_comparison(found, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text("utf-8")
    assert "<img src=x" not in html
    assert html.count('<li class="card wrong">') == min(12, found.differences[0].only_run)
    assert "B right, A wrong" in html
    assert "A right, B wrong" not in html  # nothing to show
    assert "data:image/webp;base64" in html
    figures = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    assert json.loads(figures[0])["runs"][1]["correct"] == 27
    assert json.loads(json.dumps(found.to_dict())) == json.loads(figures[0])


def as_file(run: Path, path: Path, edit: Callable[[str], str] = str) -> Path:
    """Write the answers of a run as `evaluate --answers` writes them."""
    path.write_text(edit("".join(answer_lines(answers_of_run(RunFolder(run))))), "utf-8")
    return path


def test_files_of_answers_are_compared_like_runs(run: Path, other: Callable[..., Path], tmp_path: Path) -> None:
    better = other("better", all_right)
    runs = compare([run, better]).differences[0]
    one = as_file(run, tmp_path / "a.jsonl")
    for pair in ([run, as_file(better, tmp_path / "b.jsonl")], [one, tmp_path / "b.jsonl"], [one, better]):
        found = compare(pair).differences[0]
        assert (found.gain, found.interval, found.p) == (runs.gain, runs.interval, runs.p)
        assert (found.macro_f1, found.only_run) == (pytest.approx(runs.macro_f1), runs.only_run)
        assert found.log_loss == pytest.approx(runs.log_loss, abs=1e-5)


def test_a_page_of_files_shows_images_where_a_run_says_where_they_lie(
    run: Path, other: Callable[..., Path], tmp_path: Path
) -> None:
    one = as_file(run, tmp_path / "a.jsonl")
    better = other("better", all_right)
    for pair, drawn in (([one, better], True), ([one, as_file(better, tmp_path / "b.jsonl")], False)):
        write_comparison(compare(pair), tmp_path / "page.html")
        html = (tmp_path / "page.html").read_text("utf-8")
        assert ("data:image/webp;base64" in html) == drawn
        assert ("files of answers do not say where the images lie" in html) != drawn


def test_a_file_of_other_classes_is_refused(run: Path, tmp_path: Path) -> None:
    name = compare([run, as_file(run, tmp_path / "a.jsonl")]).classes[0]
    strange = as_file(run, tmp_path / "b.jsonl", lambda text: text.replace(json.dumps(name), '"strange"'))
    for first in (run, tmp_path / "a.jsonl"):
        with pytest.raises(DataError, match=r"different classes: only one of them knows .*strange"):
            compare([first, strange])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no file"),
        ("no JSON", "is not a file of evaluate --answers"),
        ('{"file": "a.png"}', "is not a file of evaluate --answers"),
        (ONE_ANSWER % "NaN", "a probability is not between 0 and 1"),
        (ONE_ANSWER % "1.5", "a probability is not between 0 and 1"),
        (ONE_ANSWER % "0.5", "has no digests of images"),
        ("", "has no digests of images"),
    ],
)
def test_a_file_that_holds_no_answers_is_refused(run: Path, tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "a.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ArtefactError, match=said):
        compare([run, path])


def test_a_bundle_is_evaluated_on_other_images(run: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(run / "model", tmp_path / "bundle"))
    data = compare([run, as_file(run, tmp_path / "a.jsonl")]).roots[0]
    assert data is not None
    found = compare([run, bundle], data)
    first, second = (one.cost for one in found.runs)
    assert first is not None
    assert second is not None
    assert (second.parameters, second.bytes, second.backbone) == (first.parameters, first.bytes, first.backbone)
    assert (second.seconds, second.images_per_second) == (None, None)
    assert all(one.images_per_second is not None and one.images_per_second > 0 for one in found.runs)
    assert found.differences[0].gain == 0


def test_models_without_answers_are_told_to_name_images(run: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    for model in (RunFolder(run).bundle, tmp_path / "m.onnx"):
        with pytest.raises(UsageError, match=r"holds no answers: name labelled images .* --data"):
            compare([run, model])


def test_what_is_known_of_no_model_has_no_column(run: Path, tmp_path: Path) -> None:
    first, second = (as_file(run, tmp_path / name) for name in ("a.jsonl", "b.jsonl"))
    assert cost_columns(compare([first, second])) == {}
    mixed = cost_columns(compare([run, first]))
    assert {"mode", "backbone", "parameters", "size"} <= mixed.keys()
    assert {cells[1] for cells in mixed.values()} == {"-"}
    page = page_of(compare([run, first]))
    assert page.headers == ("macro F1", "log loss", *mixed)
    assert [len(one.cells) for one in page.models] == [len(page.headers)] * 2

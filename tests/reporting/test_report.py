"""From a run folder to a page, and each of its figures again from the answers of predict."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.cache.location import default_root
from cnn_tl.core.errors import ArtefactError
from cnn_tl.data.manifest import Manifest, SetAside
from cnn_tl.explaining.methods import heat_maps
from cnn_tl.pages.report import as_json, render_report
from cnn_tl.reporting import doctor_findings
from cnn_tl.reporting.data_table import data_facts, data_table
from cnn_tl.reporting.doctor_findings import FoundBefore
from cnn_tl.reporting.report import PageOptions, report_of_run

OLD = Path(__file__).parents[1] / "fixtures" / "runs_0_1"
PLAIN = PageOptions(heat_maps=False)


def embedded(html: str) -> dict[str, Any]:
    """Return the figures that a page holds as JSON."""
    found = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)
    return next(data for data in map(json.loads, found) if "figures" in data)


def test_the_page_of_a_run_shows_its_mistakes_with_thumbnails(run: Path) -> None:
    page = report_of_run(run, PLAIN)
    answers = page.answers
    wrong = sorted(np.flatnonzero(~answers.right), key=lambda index: -answers.confidence[index])
    assert wrong
    assert [card.file for card in page.galleries[0].cards] == [answers.files[index] for index in wrong[:24]]
    for card in page.cards.values():
        assert card.thumbnail is not None
        with Image.open(io.BytesIO(card.thumbnail)) as image:
            assert image.size == (24, 24)
    assert set(page.class_galleries) == set(answers.classes)
    assert page.notes == ()


def test_the_page_says_what_the_data_are_and_how_to_do_it_again(run: Path) -> None:
    page = report_of_run(run, PLAIN)
    data, cost, again = ({(name, value): remark for name, value, remark in table.rows} for table in page.tables)
    assert data["images", "90"] == "63 train, 27 val"
    assert data["", "plain/broken.png"]
    assert ("formats", "png 90") in data
    assert ("backbone", "test_resnet") in cost
    assert ("seed", "0") in again
    assert page.commands[0] == f"cnn-tl train --recipe {run}/recipe.yaml --output ANOTHER"
    assert page.facts["data"]["set_aside"][0]["file"] == "plain/broken.png"
    assert set(page.facts["sha256"]) == {"data", "recipe.yaml", "weights", "frozen"}


def test_parameters_are_those_of_the_model(run: Path) -> None:
    import timm

    model = timm.create_model("test_resnet", pretrained=False, num_classes=3)
    assert report_of_run(run, PLAIN).facts["cost"]["parameters"] == sum(p.numel() for p in model.parameters())


def test_each_figure_is_what_sklearn_makes_of_the_answers_of_predict(run: Path, cli: Callable[..., Any]) -> None:
    from sklearn import metrics

    manifest = Manifest.from_json(json.loads((run / "manifest.json").read_text("utf-8")))
    val = manifest.of("val")
    done = cli("predict", run, *(manifest.file(image) for image in val), "--top", 3, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert len(rows) == len(val)
    labels = [manifest.classes[image.label] for image in val]
    predicted = [row["label"] for row in rows]
    shares = np.zeros((len(rows), 3))
    for number, row in enumerate(rows):
        for rank in ("", "_2", "_3"):
            shares[number, manifest.classes.index(row[f"label{rank}"])] = float(row[f"probability{rank}"])
    shares /= shares.sum(axis=1, keepdims=True)  # six digits each
    figures = as_json(report_of_run(run, PLAIN))["figures"]
    assert figures["accuracy"] == metrics.accuracy_score(labels, predicted)
    assert figures["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(labels, predicted))
    assert figures["log_loss"] == pytest.approx(
        metrics.log_loss([manifest.classes.index(label) for label in labels], shares, labels=[0, 1, 2]), abs=1e-4
    )
    rank_of_label = [
        1 + int((shares[n] > shares[n, manifest.classes.index(label)]).sum()) for n, label in enumerate(labels)
    ]
    assert list(figures["top_k"]) == pytest.approx([np.mean(np.array(rank_of_label) <= k) for k in (1, 2, 3)])
    f1_of_each = metrics.f1_score(labels, predicted, labels=manifest.classes, average=None, zero_division=0)
    assert [one["f1"] or 0.0 for one in figures["per_class"].values()] == pytest.approx(f1_of_each.tolist())
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            labels, predicted, labels=manifest.classes, average=average, zero_division=0
        )
        assert list(figures[average].values()) == pytest.approx([precision, recall, f1])
    confusion = np.zeros((3, 3), int)
    for label, answer, count in figures["confusion"]:
        confusion[label, answer] = count
    assert (confusion == metrics.confusion_matrix(labels, predicted, labels=manifest.classes)).all()


def test_the_page_says_what_can_be_promised(run: Path, loose_run: Callable[[], Path]) -> None:
    page = report_of_run(run, PLAIN)
    assert page.promise is not None
    assert "5% wrong" in page.promise
    assert re.search(r"By the images held out in training: .*5% wrong", render_report(page))
    older = loose_run()
    (older / "model" / "evidence.safetensors").unlink()
    page = report_of_run(older, PLAIN)
    assert page.promise is None
    assert "By the images held out" not in render_report(page)


def test_the_page_holds_the_same_figures_as_json(run: Path) -> None:
    page = report_of_run(run, PLAIN)
    assert embedded(render_report(page)) == json.loads(json.dumps(as_json(page)))


def test_names_that_try_to_break_the_page_stay_text(run: Path) -> None:
    html = (run / "report.html").read_text("utf-8")
    assert "<img src=x" not in html
    shown = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert "onerror" in shown
    assert "\u202e" not in shown
    assert '"quoted"' not in shown


def test_train_writes_the_page_and_names_it_in_its_result(run: Path) -> None:
    from cnn_tl.training.result import read_result
    from cnn_tl.training.run_folder import RunFolder

    assert json.loads((run / "result.json").read_text("utf-8"))["report"] == "report.html"
    assert read_result(RunFolder(run)).report == run / "report.html"
    assert embedded((run / "report.html").read_text("utf-8"))["facts"]["run"] == str(run)


@pytest.mark.parametrize("name", ["freeze", "finetune", "scratch-lenet5", "freeze-hidden"])
def test_runs_of_0_1_have_pages_too(name: str, tmp_path: Path) -> None:
    run = Path(shutil.copytree(OLD / name, tmp_path / name))
    page = report_of_run(run, PLAIN)
    result = json.loads((run / "result.json").read_text("utf-8"))
    assert page.figures.correct == result["correct"]
    assert page.figures.log_loss is None
    assert bool(page.epochs) == (name not in ("freeze", "freeze-hidden"))
    assert len(render_report(page)) > 10_000


def test_images_that_are_gone_leave_a_page_without_them_and_a_note(run: Path, loose_run: Callable[[], Path]) -> None:
    loose = loose_run()
    manifest = json.loads((loose / "manifest.json").read_text("utf-8"))
    (loose / "manifest.json").write_text(json.dumps(manifest | {"root": "/no/such/place"}), "utf-8")
    page = report_of_run(loose)
    assert page.notes == ("without thumbnails of 27 images that are not where they were",)
    assert page.figures.accuracy == report_of_run(run, PLAIN).figures.accuracy
    assert all(card.thumbnail is None for card in page.cards.values())


def test_an_image_that_was_replaced_is_not_shown_as_the_one_that_was_predicted(
    run: Path, loose_run: Callable[[], Path], tmp_path: Path
) -> None:
    loose = loose_run()
    stored = json.loads((loose / "manifest.json").read_text("utf-8"))
    copied = Path(shutil.copytree(stored["root"], tmp_path / "data"))
    (loose / "manifest.json").write_text(json.dumps(stored | {"root": str(copied)}), "utf-8")
    worst = report_of_run(loose, PLAIN).galleries[0].cards[0]
    assert worst.thumbnail is not None
    Image.new("RGB", (24, 24), "lime").save(copied / worst.file)
    page = report_of_run(loose, PLAIN)
    assert page.galleries[0].cards[0].thumbnail is None
    assert page.notes == ("without thumbnails of 1 image, changed since the prediction",)


def test_without_time_there_are_no_thumbnails_and_a_note(run: Path) -> None:
    page = report_of_run(run, PageOptions(deadline=time.monotonic() - 1))
    assert "for which no time was left" in page.notes[0]
    assert all(card.thumbnail is None for card in page.cards.values())


def test_a_page_is_made_without_heat_maps_that_fail(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("out of memory\nwith a trace")

    monkeypatch.setattr("cnn_tl.explaining.one_heat_map.load", fail)
    page = report_of_run(run, PageOptions())
    assert page.heat_map_method is None
    assert page.notes == ("without heat maps: out of memory",)


def test_heat_maps_lie_over_the_worst_mistakes(run: Path) -> None:
    page = report_of_run(run)
    assert page.heat_map_method in ("gradcam", "occlusion")
    worst = page.galleries[0].cards
    assert any(card.heat_map is not None for card in worst)
    assert sum(card.heat_map is not None for card in page.cards.values()) <= 24


def test_a_heat_map_of_an_image_that_is_no_more_evidence_than_a_grey_one_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remarks = [remark for card in report_of_run(run).galleries[0].cards for remark in card.remarks]
    monkeypatch.setattr(heat_maps, "LEAST_EVIDENCE", 1e9)
    none = report_of_run(run).galleries[0].cards
    assert all(any(remark.startswith("heat map: ") for remark in card.remarks) for card in none)
    assert len(remarks) < len([remark for card in none for remark in card.remarks])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("finetune-stopped", "has not finished; finish it first: cnn-tl train --resume"),
        ("photos", "is not a run folder"),
    ],
)
def test_what_is_no_finished_run_is_refused_in_one_line(name: str, words: str) -> None:
    with pytest.raises(ArtefactError, match=words):
        report_of_run(OLD / name)


@pytest.mark.parametrize("line", ["no json", "{}", '{"file": "a", "label": "no class", "predicted": "x"}', "[]"])
def test_damaged_answers_are_reported_in_one_line(line: str, loose_run: Callable[[], Path]) -> None:
    loose = loose_run()
    (loose / "validation.jsonl").write_text(line + "\n", "utf-8")
    with pytest.raises(ArtefactError, match=r"validation\.jsonl is damaged"):
        report_of_run(loose)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"file": 5}, "a name of a file is not text"),
        ({"top": [["plain", None]] * 3}, "a probability is not between 0 and 1"),
        ({"top": [["plain", 1.5]] * 3}, "a probability is not between 0 and 1"),
    ],
)
def test_an_answer_that_cannot_be_is_damage(change: dict[str, Any], said: str, loose_run: Callable[[], Path]) -> None:
    loose = loose_run()
    first, *others = (loose / "validation.jsonl").read_text("utf-8").splitlines()
    lines = [json.dumps(json.loads(first) | change), *others]
    (loose / "validation.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    with pytest.raises(ArtefactError, match=said):
        report_of_run(loose)


def test_a_page_loads_nothing_heavy(run: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from cnn_tl.reporting import report as r;"
        "page = r.report_of_run(Path(sys.argv[1]), r.PageOptions(heat_maps=False));"
        "r.write_report(page, Path(sys.argv[2]));"
        "print([name for name in ('torch', 'timm', 'matplotlib', 'onnxruntime', 'scipy') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, run, run.parent / "again.html"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_json_of_a_page_does_not_list_every_image_of_thousands_that_were_set_aside(run: Path) -> None:
    manifest = Manifest.from_json(json.loads((run / "manifest.json").read_text()))
    assert data_facts(manifest)["set_aside_left_out"] == 0
    many = data_facts(replace(manifest, set_aside=manifest.set_aside * 1500))
    assert (len(many["set_aside"]), many["set_aside_left_out"]) == (1000, 500)


def test_a_report_lists_what_was_corrected(run: Path) -> None:
    manifest = Manifest.from_json(json.loads((run / "manifest.json").read_text("utf-8")))
    rows = [row[0] for row in data_table(manifest, data_facts(manifest), None).rows]
    assert not {"excluded", "relabelled", "kept apart"} & {*rows}
    image, other, *_ = manifest.of("train")
    new = 1 - image.label
    excluded = SetAside("a.jpg", "train", "0" * 64, "excluded by exclude.txt")
    corrected = replace(
        manifest, images=(replace(image, label=new, given=image.label), *manifest.images[1:]),
        excluded=(excluded,) * 25, kept_apart=(replace(other, group="film 7"),),
    )  # fmt: skip
    facts = data_facts(corrected)
    table = data_table(corrected, facts, None).rows
    assert ("excluded", "25", "25 images left out:") in table
    assert ("", "and 5 more", "") in table
    assert ("relabelled", "1", "1 image with a label that is not that of the folder:") in table
    names = manifest.classes
    assert ("", image.path, f"{names[image.label]}, now {names[new]}") in table
    assert ("", other.path, "group film 7") in table
    assert facts["relabelled"] == [{"file": image.path, "given": names[image.label], "label": names[new]}]
    assert facts["kept_apart"] == [other.path]


def test_a_report_says_what_a_doctor_found_in_the_same_data(run: Path) -> None:
    manifest = Manifest.from_json(json.loads((run / "manifest.json").read_text("utf-8")))
    assert report_of_run(run, PLAIN).facts["data"]["doctor"] is None
    found = FoundBefore("2026-11-28", (("leaks", 3, "3 images of val have a twin in train"),), "found")
    doctor_findings.remember(manifest.digest(), found)
    page = report_of_run(run, PLAIN)
    rows = next(table.rows for table in page.tables if table.title == "Data")
    assert ("doctor", "1 finding", "on 2026-11-28, see found") in rows
    assert ("leaks", "3", "3 images of val have a twin in train") in rows
    assert page.facts["data"]["doctor"]["day"] == "2026-11-28"
    doctor_findings.remember(manifest.digest(), FoundBefore("2026-11-28", (), None))
    assert ("doctor", "nothing found", "on 2026-11-28") in next(
        table.rows for table in report_of_run(run, PLAIN).tables if table.title == "Data"
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"day": 1, "findings": [3], "output": null}'])
def test_a_damaged_memory_of_a_doctor_is_no_memory(text: str) -> None:
    doctor_findings.remember("0" * 64, FoundBefore("2026-11-28", (), None))
    entry = default_root() / "doctor" / f"{'0' * 64}.json"
    assert doctor_findings.recall("0" * 64) is not None
    entry.write_text(text, "utf-8")
    assert doctor_findings.recall("0" * 64) is None

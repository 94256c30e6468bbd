"""`cnn-tl report` as a user meets it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cnn_tl

OLD = Path(__file__).parents[2] / "fixtures" / "runs_0_1"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD / "freeze", tmp_path / "run"))


def test_the_verdict_is_printed_and_the_page_lies_in_the_run(cli: Callable[..., Any], run: Path) -> None:
    done = cli("report", run)
    assert done.code == 0
    assert done.out.startswith("It is right on 6 of 6 validation images (100.0%)")
    assert len(done.out.splitlines()) >= 3
    assert "without thumbnails of 6 images" in done.err
    assert f"the report is in {run}/report.html" in " ".join(done.err.split())
    assert (run / "report.html").read_text("utf-8").startswith("<!doctype html>")


def test_the_figures_as_json(cli: Callable[..., Any], run: Path) -> None:
    done = cli("report", run, "--json", "--output", run.parent / "page.html", "--heat-maps", "none")
    printed = json.loads(done.out)
    assert printed["figures"]["accuracy"] == 1
    assert printed["facts"]["seed"] == 5
    assert (run.parent / "page.html").exists()
    assert not (run / "report.html").exists()


def test_a_page_replaces_a_page_and_nothing_else(cli: Callable[..., Any], run: Path, tmp_path: Path) -> None:
    page, foreign = tmp_path / "page.html", tmp_path / "foreign.html"
    foreign.write_text("<!doctype html><title>mine</title>", "utf-8")
    assert cli("report", run, "--output", page).code == 0
    assert cli("report", run, "--output", page).code == 0
    refused = cli("report", run, "--output", foreign)
    assert refused.code == 2
    assert "exists and is not a page of cnn-tl" in " ".join(refused.err.split())
    assert "mine" in foreign.read_text("utf-8")


@pytest.mark.parametrize("name", ["report.txt", "model", "manifest.json"])
def test_a_page_must_be_named_as_one(cli: Callable[..., Any], run: Path, name: str) -> None:
    before = (run / "manifest.json").read_bytes()
    assert cli("report", run, "--output", run / name).code == 2
    assert (run / "manifest.json").read_bytes() == before


def test_a_run_that_has_not_finished_is_told_how_to_finish(cli: Callable[..., Any], tmp_path: Path) -> None:
    run = shutil.copytree(OLD / "finetune-stopped", tmp_path / "run")
    done = cli("report", run)
    assert done.code == 4
    assert "cnn-tl train --resume --output" in " ".join(done.err.split())
    assert not (run / "report.html").exists()


def test_from_python(run: Path) -> None:
    written = cnn_tl.report(run)
    assert written.path == run / "report.html"
    assert written.figures.accuracy == written.to_dict()["figures"]["accuracy"] == 1
    assert written.verdict[0].startswith("It is right on 6 of 6")
    with pytest.raises(cnn_tl.CnnTlError, match=r"choose a name that ends in \.html"):
        cnn_tl.report(run, "page.txt")

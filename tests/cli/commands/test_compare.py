"""`cnn-tl compare` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cnn_tl

RUNS = Path(__file__).parents[2] / "fixtures" / "runs_0_1"


@pytest.fixture(autouse=True)
def _beside_the_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(RUNS)


def test_tables_and_a_verdict(cli: Callable[..., Any]) -> None:
    done = cli("compare", "freeze", "finetune")
    assert done.code == 0
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    found = cnn_tl.compare(["freeze", "finetune"])
    for letter, one in zip("AB", found.runs, strict=True):
        assert any(line.startswith(f"{letter} {one.run} {100 * one.accuracy:.1f}%") for line in lines)
        assert any(line.startswith(f"{letter} {one.mode} {one.cost.backbone}") for line in lines)
    assert any(line.startswith("A -> B") for line in lines)
    assert found.differences[0].verdict in lines


def test_json_and_a_page(cli: Callable[..., Any], tmp_path: Path) -> None:
    done = cli("compare", "freeze", "finetune", "--json", "--report", tmp_path / "page.html")
    assert done.code == 0
    found = json.loads(done.out)
    assert [one["run"] for one in found["runs"]] == ["freeze", "finetune"]
    assert found["differences"][0]["baseline"] == "freeze"
    assert "the report is in" in done.err
    assert "<h1>" in (tmp_path / "page.html").read_text("utf-8")


def test_refusals_before_any_work(cli: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "mine.html").write_text("my own")
    assert cli("compare", "freeze").code == 2
    assert cli("compare", "freeze", "finetune", "--split", "val").code == 2
    done = cli("compare", "freeze", "finetune", "--report", tmp_path / "mine.html")
    assert done.code == 2
    assert (tmp_path / "mine.html").read_text() == "my own"
    assert cli("compare", "freeze", "freeze-unbegun").code == 4


def test_in_python(tmp_path: Path) -> None:
    found = cnn_tl.compare(["freeze", "finetune"], report=tmp_path / "page.html")
    assert repr(found).startswith(f"<Comparison on {found.images} image")
    assert (tmp_path / "page.html").is_file()
    with pytest.raises(cnn_tl.CnnTlError, match="a list of run folders"):
        cnn_tl.compare("freeze")  # type: ignore[arg-type]

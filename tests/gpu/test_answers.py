"""A trained model on the GPU answers as it does on a CPU, in every command."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import tiny_network  # noqa: F401 - the network of the old runs
from PIL import Image

import cnn_tl
from cnn_tl.core.choices import ExplainMethod
from cnn_tl.recipe import Recipe
from cnn_tl.training.run import train

pytestmark = pytest.mark.gpu

OLD_RUNS = Path(__file__).parents[1] / "fixtures" / "runs_0_1"
NEAR = 2e-3
"""Of a probability: processors round differently."""


@pytest.fixture(scope="session")
def trained(recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(recipe("finetune"), tmp_path_factory.mktemp("trained") / "run").run


def rows(cli: Any, *words: object) -> Any:
    outcome = cli(*words, "--json")
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)


def assert_near(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> None:
    assert [(row["file"], row["label"]) for row in ours] == [(row["file"], row["label"]) for row in theirs]
    wanted = [row["probability"] for row in theirs]
    assert [row["probability"] for row in ours] == pytest.approx(wanted, abs=NEAR)


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_predict(cli: Any, trained: Path, photos: Path, device: str, batch_size: int) -> None:
    ours = rows(cli, "predict", trained, photos, "--device", device, "--batch-size", batch_size)
    assert_near(ours, rows(cli, "predict", trained, photos, "--device", "cpu"))


def test_predict_beside_files_that_are_broken(
    cli: Any, trained: Path, photos: Path, tmp_path: Path, device: str
) -> None:
    shutil.copytree(photos, tmp_path / "mixed")
    for number in (0, 5, 11):
        (tmp_path / "mixed" / "ash" / f"broken-{number}.png").write_bytes(b"\x89PNG")
    outcome = cli("predict", trained, tmp_path / "mixed", "--device", device, "--format", "csv")
    assert outcome.code == 3, outcome.err
    lines = outcome.out.splitlines()[1:]
    assert len(lines) == 63
    assert sum("broken-" in line for line in lines) == 3


def test_images_in_memory(trained: Path, device: str) -> None:
    draw = np.random.default_rng(1)
    images = [Image.fromarray(draw.integers(0, 256, (50 + 9 * n, 80, 3), np.uint8)) for n in range(5)]
    ours, theirs = (cnn_tl.load(trained, device=where).predict(images) for where in (device, "cpu"))
    assert [answer.label for answer in ours] == [answer.label for answer in theirs]
    assert [answer.probability for answer in ours] == pytest.approx([a.probability for a in theirs], abs=NEAR)


def test_evaluate(cli: Any, trained: Path, photos: Path, tmp_path: Path, device: str) -> None:
    words = ["evaluate", trained, photos, "--robustness", "--output", tmp_path / "robustness.png"]
    ours, theirs = (rows(cli, *words, "--device", where) for where in (device, "cpu"))
    assert ours["correct"] == theirs["correct"]
    assert ours["calibration_error"] == pytest.approx(theirs["calibration_error"], abs=NEAR)
    assert len(ours["robustness"]) == len(theirs["robustness"])


@pytest.mark.parametrize("method", get_args(ExplainMethod))
def test_explain(cli: Any, trained: Path, photos: Path, tmp_path: Path, device: str, method: str) -> None:
    images = [] if method == "filters" else [photos / "ash" / "0.png", photos / "cedar" / "1.png"]
    found = [
        rows(cli, "explain", trained, *images, "--method", method, "--output", tmp_path / where, "--device", where)
        for where in {device, "cpu"}
    ]
    names = [sorted(path.name for path in (tmp_path / where).glob("*.png")) for where in {device, "cpu"}]
    assert names[0]
    assert names[0] == names[-1]
    assert len(found[0]) == len(found[-1])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_export(cli: Any, trained: Path, photos: Path, tmp_path: Path, device: str, precision: str) -> None:
    """The comparison with the original runs on the GPU, if there is one; the file runs on the CPU."""
    file = tmp_path / "model.onnx"
    loose = ["--max-drop", 20, "--min-agreement", 0.5] if precision == "int8" else []
    rows(cli, "export", trained, "--output", file, "--precision", precision, *loose)
    if precision != "int8":
        assert_near(rows(cli, "predict", file, photos), rows(cli, "predict", trained, photos, "--device", device))


def test_plan_names_the_gpu(cli: Any, photos: Path, tiny_weights: Path, tmp_path: Path, device: str) -> None:
    words = ["train", photos, "--model", "test_resnet", "--weights", tiny_weights, "--image-size", 64, "--dry-run"]
    plan = rows(cli, *words, "--mode", "finetune", "--output", tmp_path / "run", "--device", device)
    assert plan["device"].startswith(device)
    assert rows(cli, *words, "--output", tmp_path / "run")["device"].startswith(device), "auto takes the GPU"


def test_lr_find(cli: Any, photos: Path, tiny_weights: Path, tmp_path: Path, device: str) -> None:
    words = ["lr-find", photos, "--model", "test_resnet", "--weights", tiny_weights, "--image-size", 64]
    words += ["--set", "run.precision=fp32", "--output"]
    found = [rows(cli, *words, tmp_path / f"{where}.png", "--device", where) for where in (device, "cpu")]
    assert len(found[0]["rates"]) > 20
    ours, theirs = (one["losses"][:20] for one in found)
    assert ours == pytest.approx(theirs, rel=0.05, abs=0.02)


def test_benchmark(cli: Any, photos: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnn_tl.evaluating.benchmark.PACE", 0.05)  # a second for all stages
    report = rows(cli, "benchmark", photos, "--model", "test_resnet", "--images", 32, "--device", device)
    assert report["stages"]
    for stage in report["stages"]:
        assert stage["note"] if stage["seconds"] is None else stage["seconds"] > 0


def test_serve(cli: Any, trained: Path, photos: Path, device: str) -> None:
    from small_server import httpx, running

    images = sorted(photos.rglob("*.png"))[:20]
    with running([sys.executable, "-m", "cnn_tl", "serve", str(trained), "--port", "0", "--device", device]) as served:
        files = [("files", (path.name, path.read_bytes())) for path in images]
        answers = httpx.post(f"{served.url}predict", files=files, timeout=60).json()
        map_of = httpx.post(f"{served.url}explain", files={"file": ("a.png", images[0].read_bytes())}, timeout=60)
        code, errors = served.stop()
    theirs = rows(cli, "predict", trained, *images, "--device", device)
    assert [answer["label"] for answer in answers] == [row["label"] for row in theirs]
    assert map_of.status_code == 200, map_of.text
    assert code == 143, errors


@pytest.mark.parametrize("name", ["finetune", "freeze", "scratch-lenet5"])
def test_runs_of_an_earlier_version(cli: Any, device: str, name: str) -> None:
    ours, theirs = (
        rows(cli, "predict", OLD_RUNS / name, OLD_RUNS / "photos", "--device", where) for where in (device, "cpu")
    )
    assert_near(ours, theirs)


@pytest.mark.parametrize("name", ["finetune-stopped", "last-stage-stopped", "lp-ft-stopped"])
def test_a_run_that_an_earlier_version_began_on_a_cpu_goes_on(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, name: str
) -> None:
    shutil.copytree(OLD_RUNS, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    outcome = cli("train", "--resume", "--output", name, "--device", device, "--json")
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out)["correct"] > 0

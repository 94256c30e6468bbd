from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from cnn_tl.cli.commands.export import _NEXT
from cnn_tl.core.choices import ExportFormat
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks import bundle


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("test_efficientnet", num_classes=3)
        torch.nn.init.normal_(model.get_classifier().weight)
    folder = tmp_path_factory.mktemp("run") / "model"
    spec = Preprocessing.from_pretrained_cfg(model.pretrained_cfg, 64)
    bundle.save_model(folder, model, classes=["a", "b", "c"], preprocessing=spec, facts={})
    return folder.parent


@pytest.fixture
def run(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made, "my run"))


def test_table(cli: Callable[..., object], run: Path) -> None:
    done = cli("export", run)
    assert done.code == 0
    assert "my run/model.onnx" in done.out
    assert "test_efficientnet, onnx opset" in done.out
    assert done.out.startswith("same answer for 64 of 64 random images (the validation images are not here)\n")
    assert "batch" not in done.out
    assert "needs onnxruntime 1.18 or newer" in " ".join(done.out.split())
    assert done.out.rstrip().endswith("next:\n  cnn-tl predict 'my run/model.onnx' IMAGES...")
    assert "exporting to onnx" in done.err


def test_every_comparison_is_shown_on_demand(cli: Callable[..., object], run: Path) -> None:
    done = cli("export", run, "-v")
    rows = [line.split() for line in done.out.splitlines() if " 64 " in line and "resized" in line]
    assert [row[2:5] for row in rows] == [[size, "64", "64"] for size in ("1", "2", "7", "33")]


def test_a_missing_package_is_named_before_any_work_is_announced(
    cli: Callable[..., object], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    done = cli("export", run, "--format", "openvino")
    assert (done.code, done.out) == (5, "")
    assert done.err == "error: --format openvino needs the package openvino: pip install openvino\n"


def test_json(cli: Callable[..., object], run: Path) -> None:
    done = cli("export", run / "model", "--json", "--output", "here/x.onnx")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["path"] == "here/x.onnx"
    assert report["facts"]["onnxruntime"] == "1.18"
    assert report["bytes"] == Path("here/x.onnx").stat().st_size
    assert [row["batch_size"] for row in report["parity"]] == [1, 2, 7, 33] * 2
    assert [row["top1"] for row in report["parity"]] == [1] * 8


def test_mismatch(cli: Callable[..., object], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnn_tl.exporting import parity

    monkeypatch.setattr(parity, "LARGEST_DIFFERENCE", -1.0)
    done = cli("export", run)
    assert done.code == 4
    assert done.out == ""
    last = done.err.splitlines()[-1]
    assert last.startswith("error: the export differs from the model: on prepared images in batches of 1 ")
    assert [path.name for path in run.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent"], 4, "error: absent does not exist; name a run folder or a bundle"),
        (["my run", "--format", "tflite"], 2, "'tflite'"),
        (
            ["my run", "--outputs", "probabilities"],
            2,
            "name logits, and probabilities, distance and features if wanted",
        ),
        (["my run", "--outputs", "logits,lgits"], 2, "--outputs logits,lgits: name logits"),
        (["my run", "--outputs", "logits,logits"], 2, "if wanted, once"),
        (
            ["my run", "--format", "torch", "--preprocess", "inside"],
            2,
            "error: torch cannot be written with --preprocess",
        ),
        (
            ["my run", "--format", "timm", "--precision", "int8"],
            2,
            "error: timm cannot be written with --precision int8",
        ),
        (["my run", "--precision", "int8"], 3, "error: --precision int8 needs the training images of my run/model"),
        (["my run", "--precision", "int8", "--max-drop", "-1"], 2, "max-drop"),
        (["my run", "--precision", "int8", "--min-agreement", "90"], 2, "min-agreement"),
        (["my run", "--output", "."], 5, "error: . is a folder; choose a file as --output"),
        (["my run", "--output", "new/mine"], 2, "new/mine: a file of this format ends in .onnx; try new/mine.onnx"),
        (["my run", "--format", "torch", "--output", "mine.onnx"], 2, "ends in .pt2; try mine.onnx.pt2"),
        (
            ["my run", "--output", "mine"],
            5,
            "error: mine is not an unchanged export of cnn-tl; remove it, or choose another",
        ),
    ],
)
@pytest.mark.usefixtures("run")
def test_refusals(cli: Callable[..., object], arguments: list[str], code: int, message: str) -> None:
    Path("mine").touch()
    done = cli("export", *arguments)
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err


def test_what_fewer_bits_cost(capsys: pytest.CaptureFixture[str]) -> None:
    from cnn_tl.cli.commands.export import show_report
    from cnn_tl.exporting.export import ExportReport
    from cnn_tl.exporting.options import Options
    from cnn_tl.exporting.parity import Agreement
    from cnn_tl.exporting.precision_cost import Cost

    paid = Cost("int8", "64 training images", 75, 71, 70, 0.96, 0.227, 13_400_000, 3_350_000, 40.0, 70.0)
    options = Options(precision="int8").of("onnx")
    facts = {"architecture": "resnet18", "opset": "20"}
    found = Agreement("prepared", 33, 75, 1.1, 1e-4, 72 / 75, ties=1)
    report = ExportReport(Path("m.onnx"), "onnx", 3_350_000, "", facts, "images", "torch", options, (found,), paid)
    assert repr(report) == "<ExportReport m.onnx: onnx, 3.35 MB, same answer for 72 of 75 images, 1 tied>"
    show_report(report)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "same answer for 72 of 75 images, 1 tied"
    assert "logits differ by 1.1 at most" in lines
    assert "compared with torch" in lines
    assert "probabilities change by 22.7 points at most" in lines
    assert "accuracy 94.7% 93.3% -1.33 points" in lines
    assert "right 71 70 of 75 images" in lines
    assert "size 13.4 MB 3.4 MB 0.25 x" in lines
    assert "speed 40 img/s 70 img/s 1.75 x, batches of 32 in turn" in lines
    assert "same answer 96.0% of fp32's" in lines
    assert "calibrated on 64 training images" in lines


def test_every_format_has_a_next_step() -> None:
    assert set(_NEXT) == set(get_args(ExportFormat))

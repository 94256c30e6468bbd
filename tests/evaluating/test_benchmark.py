"""The benchmark measures each stage, and its figures fit together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cnn_tl.core.errors import DataError
from cnn_tl.evaluating import benchmark as benchmarking
from cnn_tl.evaluating import benchmark_stages
from cnn_tl.evaluating.benchmark import benchmark


@pytest.fixture(autouse=True)
def one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarking, "ROUNDS", 1)


def test_every_stage_is_measured(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    data = make_images(tmp_path / "data", {"ash": 20, "birch": 20})
    report = benchmark(data, model="test_resnet", device="cpu", images=48)
    stages = {stage.stage: stage for stage in report.stages}
    assert list(stages)[:2] == ["imports", "decode"]
    assert {"forward pass, fp32", "embedding, fp32", "head fit, lbfgs", "fine-tuning step"} <= stages.keys()
    assert stages["imports"].images_per_second is None
    for stage in report.stages:
        assert stage.seconds > 0
        if stage.images_per_second is not None:
            assert stage.images_per_second > 0
    floor, embedding = stages["forward pass, fp32"], stages["embedding, fp32"]
    assert embedding.of_floor == pytest.approx(floor.seconds / embedding.seconds, abs=0.002)
    assert floor.images_per_second == pytest.approx(48 / floor.seconds, rel=0.01)


def test_the_command_prints_a_table_or_json(
    cli: Callable[..., Any], tmp_path: Path, make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[Any] = []

    def once(*arguments: Any, **options: Any) -> Any:
        if not measured:
            measured.append(benchmark(*arguments, **options))
        return measured[0]

    monkeypatch.setattr(benchmarking, "benchmark", once)
    data = make_images(tmp_path / "data", {"ash": 20, "birch": 20})
    words = ["benchmark", data, "--model", "test_resnet", "--device", "cpu", "--images", 32]
    outcome = cli(*words)
    assert outcome.code == 0
    assert "test_resnet on cpu (" in outcome.out
    assert "share of forward pass" in " ".join(outcome.out.split())
    figures = json.loads(cli(*words, "--json").out)
    assert figures["images"] == 32
    assert figures["stages"][0]["stage"] == "imports"


def test_photographs_are_at_hand_without_a_folder(tmp_path: Path) -> None:
    benchmarking._write_crops(tmp_path)
    assert len(list(tmp_path.rglob("*.jpg"))) == 64
    assert len(list(tmp_path.iterdir())) == benchmarking.SAMPLE_CLASSES


def test_mistakes_are_one_line(cli: Callable[..., Any], tmp_path: Path) -> None:
    assert cli("benchmark", tmp_path / "nowhere").code == 3
    assert cli("benchmark", "--model", "resnet81").code == 2
    assert cli("benchmark", "--images", "1").code == 2


def test_a_broken_image_is_no_time_of_decoding(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    files = sorted(make_images(tmp_path / "data", {"ash": 3}).rglob("*.png"))
    network = benchmarking._network("test_resnet", 2)
    work = benchmark_stages.Workload.of(network, torch.device("cpu"), [(path, 0) for path in files])
    assert benchmark_stages.decode(work) > 0
    files[1].write_bytes(files[1].read_bytes()[:100])
    with pytest.raises(DataError, match=r"1\.png"):
        benchmark_stages.decode(work)

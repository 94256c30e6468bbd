"""What was measured decides, in a way that can be read off; and is remembered."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cnn_tl.features import speed
from cnn_tl.features.speed import Speeds, Way
from cnn_tl.networks import backbone, weights

COMPILED = {"fp32": 0.010, "bf16": 0.005, "bf16, compiled": 0.002}


@pytest.mark.parametrize(
    ("bf16", "wanted", "chosen"),
    [(0.005, "auto", "bf16"), (0.0095, "auto", "fp32"), (0.02, "auto", "fp32"), (0.02, "bf16", "bf16"),
     (0.005, "fp32", "fp32"), (None, "auto", "fp32")],
)  # fmt: skip
def test_bf16_is_taken_where_it_clearly_pays(bf16: float | None, wanted: str, chosen: str) -> None:
    seconds = {"fp32": 0.010} | ({} if bf16 is None else {"bf16": bf16})
    assert speed.choose_precision(Speeds("cpu", "", seconds), wanted) == chosen  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("plain", "compiled", "chosen"),
    [
        (10_000, 10_000, False),  # 50 s against 40 s of compiling and 20 s
        (20_000, 20_000, True),
        (20_000, 0, True),  # all there from an earlier run
        (0, 20_000, False),
        (0, 0, False),
        (20_000, 19_000, True),  # a compiled run that was killed goes on compiled
    ],
)
def test_compiling_is_chosen_when_it_repays_its_time(plain: int, compiled: int, chosen: bool) -> None:
    speeds = Speeds("cpu", "", COMPILED, compile_seconds=40.0)
    way = speed.choose_way(speeds, "bf16", "auto", lambda way: compiled if way.compiled else plain)
    assert way == Way("bf16", compiled=chosen)


def test_compiling_can_be_forbidden_forced_and_failed() -> None:
    speeds = Speeds("cpu", "", COMPILED, compile_seconds=40.0)
    assert not speed.choose_way(speeds, "bf16", "never", lambda way: 10**6).compiled
    assert speed.choose_way(speeds, "bf16", "always", lambda way: 1).compiled
    failed = Speeds("cpu", "", COMPILED, compile_seconds=-1.0)
    assert not speed.choose_way(failed, "bf16", "auto", lambda way: 10**6).compiled


def test_compiling_is_tried_only_for_much_work_and_only_once() -> None:
    speeds = Speeds("cpu", "", {"fp32": 0.01, "bf16": 0.005})
    assert speed.worth_trying_to_compile(speeds, "bf16", "auto", 100_000)
    assert not speed.worth_trying_to_compile(speeds, "bf16", "auto", 10_000)
    assert not speed.worth_trying_to_compile(speeds, "bf16", "never", 100_000)
    tried = Speeds("cpu", "", {"fp32": 0.01, "bf16": 0.005}, compile_seconds=-1.0)
    assert not speed.worth_trying_to_compile(tried, "bf16", "auto", 100_000)


def test_measuring_and_remembering(tmp_path: Path) -> None:
    network = backbone.build(
        "test_resnet", weights.Source("random", None, ""), num_classes=3, image_size=64, seed=0
    )  # fmt: skip
    few = speed.measure(network, torch.device("cpu"), pictures=10, formats=["fp32", "bf16"])
    assert few.seconds.keys() == {"fp32", "bf16"}
    assert all(0 < seconds < 1 for seconds in few.seconds.values())
    assert few.batch_size is None
    many = speed.measure(network, torch.device("cpu"), pictures=10_000, formats=["fp32"])
    assert many.batch_size in speed.BATCH_SIZES["cpu"]
    assert speed.recall(tmp_path, "auto") is None
    speed.remember(tmp_path, "auto", many)
    assert speed.recall(tmp_path, "auto") == many
    assert speed.recall(tmp_path, "cuda") is None


def test_another_machine_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speed.remember(tmp_path, "auto", Speeds("cpu", "", {"fp32": 0.01}))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert speed.recall(tmp_path, "auto") is None


def test_a_damaged_memory_is_none(tmp_path: Path) -> None:
    speed.remember(tmp_path, "auto", Speeds("cpu", "", {"fp32": 0.01}))
    [file] = tmp_path.iterdir()
    for text in ("{", "[]", '{"device": "cpu", "new": 1}'):
        file.write_text(text)
        assert speed.recall(tmp_path, "auto") is None

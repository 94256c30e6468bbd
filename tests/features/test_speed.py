"""What was measured decides, in a way that can be read off; and is remembered."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cnn_tl.core.device import Precision, WantedPrecision
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.features import speed
from cnn_tl.features.speed import Speeds, Way
from cnn_tl.networks import backbone
from cnn_tl.networks.backbone import Network
from cnn_tl.networks.pretrained import weights

SPEC = Preprocessing(224, 224, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
WANTED: tuple[WantedPrecision, ...] = ("auto", "fp32", "bf16")
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
    speeds = Speeds("cpu", "", COMPILED, compile_seconds={"bf16, compiled": 40.0})
    way = speed.choose_way(speeds, "bf16", "auto", lambda way: compiled if way.compiled else plain)
    assert way == Way("bf16", compiled=chosen)


def test_compiling_can_be_forbidden_forced_and_failed() -> None:
    speeds = Speeds("cpu", "", COMPILED, compile_seconds={"bf16, compiled": 40.0})
    assert not speed.choose_way(speeds, "bf16", "never", lambda way: 10**6).compiled
    assert speed.choose_way(speeds, "bf16", "always", lambda way: 1).compiled
    failed = Speeds("cpu", "", COMPILED, compile_seconds={"bf16, compiled": -1.0})
    assert not speed.choose_way(failed, "bf16", "auto", lambda way: 10**6).compiled


def test_compiling_is_tried_only_for_much_work_and_only_once() -> None:
    speeds = Speeds("cpu", "", {"fp32": 0.01, "bf16": 0.005})
    assert speed.worth_trying_to_compile(speeds, "bf16", "auto", 100_000)
    assert not speed.worth_trying_to_compile(speeds, "bf16", "auto", 10_000)
    assert not speed.worth_trying_to_compile(speeds, "bf16", "never", 100_000)
    tried = Speeds("cpu", "", {"fp32": 0.01, "bf16": 0.005}, compile_seconds={"bf16, compiled": -1.0})
    assert not speed.worth_trying_to_compile(tried, "bf16", "auto", 100_000)
    assert speed.worth_trying_to_compile(tried, "fp32", "auto", 100_000)  # a way of its own


@pytest.fixture(scope="module")
def network() -> Network:
    return backbone.build(
        "test_resnet", weights.Source("random", None, ""), num_classes=3, image_size=64, seed=0
    )  # fmt: skip


CPU = torch.device("cpu")


def test_measuring_and_remembering(network: Network, tmp_path: Path) -> None:
    few = speed.measure(network, CPU, precisions=["fp32", "bf16"])
    assert few.seconds.keys() == {"fp32", "bf16"}
    assert all(0 < seconds < 1 for seconds in few.seconds.values())
    assert few.batch_size is None
    assert speed.recall(tmp_path, "auto") is None
    speed.remember(tmp_path, "auto", few)
    assert speed.recall(tmp_path, "auto") == few
    assert speed.recall(tmp_path, "cuda") is None


@pytest.mark.parametrize(
    ("device", "batch_size", "formats", "lacks"),
    [
        ("cpu", None, ["fp32"], False),
        ("cpu", None, ["fp32", "bf16"], True),
        ("mps", None, ["fp32"], True),  # a batch size
        ("mps", 64, ["fp32"], False),
    ],
)
def test_what_is_left_to_measure(device: str, batch_size: int | None, formats: list[Precision], lacks: bool) -> None:
    assert Speeds(device, "", {"fp32": 0.01}, batch_size).lacks(formats) == lacks


def test_no_stopwatch_decides_how_many_images_pass_a_cpu_together() -> None:
    """Features kept by an older run, or computed where nothing can be remembered, have the same bits."""
    sizes = {Speeds("cpu", "", {"fp32": 0.01}, measured).at_once(SPEC) for measured in (None, 16, 32)}
    assert sizes == {speed.BATCH_SIZE}
    assert Speeds("mps", "", {"fp32": 0.01}, 128).at_once(SPEC) == 128


@pytest.mark.parametrize("has_bf16", [True, False])
def test_on_cuda_nothing_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_bf16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Pretend")
    monkeypatch.setattr("cnn_tl.core.device.has_fast_bf16", lambda device: has_bf16)
    found = speed.measure(None, torch.device("cuda"), precisions=["fp32", "bf16"])  # type: ignore[arg-type]
    fast = "bf16" if has_bf16 else "fp32"
    assert found == Speeds("cuda", "cuda (Pretend)", precision=fast)  # type: ignore[arg-type]
    assert not found.lacks(["fp32", "bf16"])
    assert found.at_once(SPEC) == 256
    assert speed.choose_precision(found, "auto") == fast
    assert not speed.worth_trying_to_compile(found, "bf16", "auto", 10**9)
    assert speed.choose_way(found, "bf16", "always", lambda way: 1).compiled
    assert found.seconds_of(Way("bf16")) > 0
    speed.remember(tmp_path, "auto", found)
    assert speed.recall(tmp_path, "auto") == found


def test_validation_images_are_computed_as_predict_computes_them() -> None:
    fast, slow = Speeds("cuda", "", precision="bf16"), Speeds("cuda", "", precision="fp32")
    assert [speed.way_of_predict(fast, wanted).precision for wanted in WANTED] == ["bf16", "fp32", "bf16"]
    assert [speed.way_of_predict(slow, wanted).precision for wanted in WANTED] == ["fp32", "fp32", "fp32"]
    cpu = Speeds("cpu", "", {"fp32": 0.01, "bf16": 0.001}, precision="bf16")
    assert [speed.way_of_predict(cpu, wanted).precision for wanted in WANTED] == ["fp32", "fp32", "fp32"]


def test_measuring_more_keeps_what_is_known(network: Network) -> None:
    """The results of compiling are kept, and so is the precision: it determines the features' keys."""
    known = Speeds("cpu", "here", COMPILED, None, {"bf16, compiled": 40.0}, "bf16")
    more = speed.measure(network, CPU, precisions=["fp32", "bf16"], known=known)
    assert (more.compile_seconds, more.precision) == (known.compile_seconds, "bf16")
    assert {way: more.seconds[way] for way in ("fp32", "bf16, compiled")} == {"fp32": 0.010, "bf16, compiled": 0.002}
    known = Speeds("cpu", "here", {"fp32": 1000.0}, precision="fp32")
    more = speed.measure(network, CPU, precisions=["fp32", "bf16"], known=known)
    assert more.seconds.keys() == {"fp32", "bf16"}
    assert speed.choose_precision(more, "auto") == "fp32"


def test_another_machine_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speed.remember(tmp_path, "auto", WHOLE)
    assert speed.recall(tmp_path, "auto") == WHOLE
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert speed.recall(tmp_path, "auto") is None


def test_whose_it_is() -> None:
    assert WHOLE.is_of(CPU)
    assert not replace(WHOLE, device="cuda").is_of(CPU)


WHOLE = Speeds("cpu", "", {"fp32": 0.01}, 16, {"fp32, compiled": -1}, "fp32")


@pytest.mark.parametrize(
    "change",
    [
        {"new": 1}, {"device": "tpu"}, {"device_name": 1}, {"seconds": {}}, {"seconds": {"bf16": 0.01}},
        {"seconds": {"fp32": "0.01"}}, {"seconds": {"fp32": 0}}, {"seconds": {"fp32": -1.0}}, {"seconds": [1]},
        {"seconds": None}, {"batch_size": 0}, {"batch_size": "8"}, {"compile_seconds": None},
        {"compile_seconds": {"bf16, compiled": "x"}}, {"precision": None}, {"precision": "fp16"}, {"precision": "bf16"},
        {"precision": []}, {"seconds": {"fp32": 10**400}}, {"seconds": {"fp32": 1e308}}, {"batch_size": 10**30},
        {"compile_seconds": {"bf16, compiled": 1e308}},
    ],
    ids=str,
)  # fmt: skip
def test_a_memory_that_makes_no_sense_is_none(tmp_path: Path, change: dict[str, Any]) -> None:
    speed.remember(tmp_path, "auto", WHOLE)
    [file] = tmp_path.iterdir()
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert speed.recall(tmp_path, "auto") is None


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_memory_is_none(tmp_path: Path, text: str) -> None:
    speed.remember(tmp_path, "auto", WHOLE)
    [file] = tmp_path.iterdir()
    file.write_text(text)
    assert speed.recall(tmp_path, "auto") is None

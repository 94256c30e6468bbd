"""The benchmark divides its time over the stages, and its figures fit together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from cnn_tl.cli.commands.benchmark import in_unit, remark
from cnn_tl.core.errors import DataError
from cnn_tl.core.progress import Observer
from cnn_tl.data.reading import ahead
from cnn_tl.evaluating import benchmark as benchmarking
from cnn_tl.evaluating import benchmark_stages
from cnn_tl.evaluating.benchmark import BenchmarkReport, StageSpeed, benchmark
from cnn_tl.evaluating.benchmark_sample import CLASSES_OF_CROPS, CROPS, sample_of, sampled, write_crops
from cnn_tl.evaluating.benchmark_stages import Measured, NotMeasuredError, Stage
from cnn_tl.evaluating.benchmark_training import Training, training
from cnn_tl.evaluating.benchmark_verdict import verdict


@pytest.fixture(autouse=True)
def short_stages_without_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each stage be short, and none be left out, however slow this machine is."""
    monkeypatch.setattr(benchmarking, "PACE", 0.05)
    monkeypatch.setattr(benchmarking, "SECONDS", 1e6)


def names(report: BenchmarkReport) -> list[str]:
    return [stage.stage for stage in report.stages]


def test_every_stage_has_a_figure_in_its_unit_or_a_reason(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    data = make_images(tmp_path / "data", {"ash": 20, "birch": 20})
    report = benchmark(data, model="test_resnet", device="cpu", images=32)
    stages = {stage.stage: stage for stage in report.stages}
    assert {
        "decode, 1 thread", "forward pass, fp32", "forward pass, onnxruntime", "embedding, onnxruntime",
        "head fit, lbfgs",
        "training step, tensors ready", "training step, from images",
    } <= stages.keys()  # fmt: skip
    assert report.images == 32
    for stage in report.stages:
        assert stage.unit == ("s" if stage.stage.startswith(("head", "imports")) else stage.unit)
        if stage.value is None or stage.seconds is None:
            assert stage.note
            continue
        assert stage.value > 0
        assert stage.seconds > 0
        assert (stage.images_per_second is None) == (stage.unit != "img/s")
        if stage.images_per_second is not None:
            assert stage.images_per_second == pytest.approx((stage.images or 0) / stage.seconds, rel=0.05)
            assert stage.value == pytest.approx(stage.images_per_second, rel=0.05)
        if stage.of_floor is not None:
            floor = stages[stage.floor or ""].value
            assert floor is not None
            assert stage.of_floor == pytest.approx(stage.value / floor, rel=0.02)
    assert stages["decode, 1 thread"].value is not None


def test_processes_decode_where_there_are_many_cores(
    tmp_path: Path, make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "PROCESSES_FROM", 2)
    monkeypatch.setattr(benchmark_stages, "default_workers", lambda: 2)
    manifest = sample_of(make_images(tmp_path / "data", {"ash": 20, "birch": 20}), 40)
    with training(manifest, "test_resnet", "cpu") as found:
        stages = {stage.name: stage for stage in benchmark_stages.reading_stages(found.work)}
        assert list(stages) == ["decode, 1 thread", "decode, 2 threads", "decode, 2 processes"]
        found.work.decode_seconds = 0.001
        done = stages["decode, 2 processes"].run(0.4)
        assert done.images
        assert not found.work.broken
        assert set(found.work.readable) == set(manifest.images)


def test_views_are_drawn_on_the_device_from_its_memory(slow: Callable[[float], Training]) -> None:
    found = slow(0.001)
    done = found.views_on_device(0.2)
    assert done.amount > 0
    assert done.amount % found.batch_size == 0
    assert done.seconds > 0


@pytest.mark.gpu
def test_a_gpu_has_stages_of_its_own(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    data = make_images(tmp_path / "data", {"ash": 40, "birch": 40})
    report = benchmark(data, model="test_resnet", device="cuda", images=80)
    stages = {stage.stage: stage for stage in report.stages}
    assert {"copy to the device, pinned", "random views, on the device", "training step, tensors ready"} <= set(stages)
    assert stages["copy to the device, pinned"].unit == "GB/s"
    assert {name for name, stage in stages.items() if stage.value is None} <= {"head fit, lbfgs"}
    assert report.precision == "bf16"


@pytest.mark.gpu
def test_a_gpu_measures_its_limit_without_a_trace(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    manifest = sample_of(make_images(tmp_path / "data", {"ash": 40, "birch": 40}), 80)
    with training(manifest, "test_resnet", "cuda") as found:
        found.work.readable = dict.fromkeys(manifest.images)
        model = found.work.network.model
        found.ready(0.05)  # moves the model to the device
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        state = torch.cuda.get_rng_state()
        assert found.ready(0.05).amount > 0
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert torch.equal(state, torch.cuda.get_rng_state())


@dataclass
class Clock:
    """Time that passes only when a stage runs."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_time_is_divided_by_weight_and_what_is_left_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarking, "PACE", 1.0)
    clock, given = Clock(), {}

    def stage(name: str, weight: float, takes: float, error: bool = False) -> Stage:
        def run(seconds: float) -> Measured:
            given[name] = seconds
            clock.now += takes
            if error:
                raise NotMeasuredError("no")
            return Measured(8, takes, 8)

        return Stage(name, "img/s", weight, run)

    stages = [
        stage("a", 1, 0.5),
        stage("b", 1, 4.0),
        stage("c", 2, 1.0, error=True),
        stage("d", 2, 9.0),
        stage("e", 1, 1),
    ]
    found = benchmarking._run(stages, 6.0, Observer(), clock)
    assert given["a"] == pytest.approx(6 / 7)  # there is a little less time than weight
    assert given["b"] == pytest.approx(min(1, 5.5 / 6))
    assert given["c"] == pytest.approx(2 * 1.5 / 5)  # b took more than its share: the later ones have less
    assert given["d"] == pytest.approx(2 * 0.5 / 3)
    assert "e" not in given  # d took all
    by_name = {one.stage: one for one in found}
    assert by_name["a"].value == pytest.approx(16)
    assert by_name["c"].note == "no"
    assert by_name["e"].note == "no time left"
    assert by_name["e"].value is by_name["e"].seconds is None


def test_an_idle_machine_is_not_kept_longer_than_a_stage_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarking, "PACE", 1.0)
    given: list[float] = []

    def run(seconds: float) -> Measured:
        given.append(seconds)
        return Measured(1, 1, 1)

    benchmarking._run([Stage("a", "img/s", 2.5, run)], 1000.0, Observer(), Clock())
    assert given == [2.5]


def test_values_have_the_unit_of_their_stage() -> None:
    clock = Clock()
    stages = [
        Stage("views", "views/s", 1, lambda _: Measured(500, 2)),
        Stage("copy", "GB/s", 1, lambda _: Measured(4e9, 2)),
        Stage("fit", "s", 1, lambda _: Measured(0, 2)),
        Stage("step", "img/s", 1, lambda _: Measured(50, 2, 50)),
        Stage("limited", "img/s", 1, lambda _: Measured(25, 2, 25), "step"),
    ]
    found = benchmarking._run(stages, 100.0, Observer(), clock)
    assert [one.value for one in found] == [250, 2, 2, 25, 12.5]
    assert [one.images_per_second for one in found] == [None, None, None, 25, 12.5]
    assert found[-1].of_floor == 0.5
    shown = [in_unit(one.value or 0, one.unit) for one in found]
    assert shown == ["250 views/s", "2 GB/s", "2 s", "25 img/s", "12.5 img/s"]
    assert remark(found[-1]) == "50% of forward pass"


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
    assert "training step" in outcome.out
    assert "train embeds images in" in outcome.out
    figures = json.loads(cli(*words, "--json").out)
    assert figures["images"] == 32
    assert {"stage", "images", "images_per_second", "seconds", "of_floor", "value", "unit"} <= figures["stages"][
        0
    ].keys()


def test_photographs_are_at_hand_without_a_folder(tmp_path: Path) -> None:
    write_crops(tmp_path)
    assert len(list(tmp_path.rglob("*.jpg"))) == CROPS
    assert len(list(tmp_path.iterdir())) == CLASSES_OF_CROPS
    with sampled(None, 40) as sample:
        assert len(sample.manifest.images) == 40
        assert len({image.sha256 for image in sample.manifest.images}) > 1


def test_mistakes_are_one_line(cli: Callable[..., Any], tmp_path: Path) -> None:
    assert cli("benchmark", tmp_path / "nowhere").code == 3
    assert cli("benchmark", tmp_path).code == 3
    assert cli("benchmark", "--model", "resnet81").code == 2
    assert cli("benchmark", "--images", "1").code == 2


def test_a_sample_has_equally_many_images_of_each_folder(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    data = make_images(tmp_path / "data", {"train/ash": 20, "train/birch": 4, "val/ash": 20})
    (data / "train" / ".hidden").mkdir()
    found = sample_of(data, 18)
    folders = [image.path.rpartition("/")[0] for image in found.images]
    assert {name: folders.count(name) for name in set(folders)} == {"train/ash": 7, "train/birch": 4, "val/ash": 7}
    assert len(found.classes) == 3
    assert all(found.file(image).is_file() for image in found.images)


def test_images_of_one_folder_are_two_classes(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    found = sample_of(make_images(tmp_path / "data", {"ash": 5}) / "ash", 32)
    assert [image.label for image in found.images] == [0, 1, 0, 1, 0]


def test_a_large_folder_is_not_listed_to_its_end(
    tmp_path: Path, make_images: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnn_tl.evaluating import benchmark_sample

    monkeypatch.setattr(benchmark_sample, "MOST_ENTRIES", 6)
    monkeypatch.setattr(benchmark_sample, "MOST_FOLDERS", 2)
    found = sample_of(make_images(tmp_path / "data", {"a": 9, "b": 9, "c": 9}), 100)
    assert len(found.images) == 12


def test_a_broken_image_is_no_time_of_decoding(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    data = make_images(tmp_path / "data", {"ash": 3})
    files = sorted(data.rglob("*.png"))
    files[1].write_bytes(files[1].read_bytes()[:100])
    with training(sample_of(data, 32), "test_resnet", "cpu") as found:
        done = benchmark_stages.decode(found.work, 1.0, workers=2)
        assert done.images
        assert [image.path for image in found.work.broken] == ["ash/1.png"]
        assert done.images % 3 != 0 or set(found.work.readable) == set(found.work.manifest.images[::2])
        for file in files:
            file.write_bytes(b"\x89PNG nothing")
        found.work.broken.clear()
        with pytest.raises(DataError, match=r"\.png"):
            benchmark_stages.decode(found.work, 0.05, workers=0)


def test_large_files_are_read_in_small_groups(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    with training(sample_of(make_images(tmp_path / "data", {"ash": 3}), 32), "test_resnet", "cpu") as found:
        found.work.decode_seconds = 0.001
        assert found.work.group_size(16, 1.0, 2) == 16
        found.work.decode_seconds = 0.5
        assert found.work.group_size(16, 1.0, 2) == 1
        assert found.work.group_size(16, 1.5, 16) == 8


@pytest.fixture
def slow(tmp_path: Path, make_images: Callable[..., Path]) -> Iterator[Callable[[float], Training]]:
    """Yield a function that opens a training whose forward pass is said to take so many seconds an image."""
    data = make_images(tmp_path / "data", {"ash": 8, "birch": 8})
    with ExitStack() as stack:

        def opened(seconds_per_image: float) -> Training:
            manifest = sample_of(data, 16)
            found = stack.enter_context(training(manifest, "test_resnet", "cpu"))
            found.work.seconds_per_image["fp32"] = seconds_per_image
            found.work.readable = dict.fromkeys(manifest.images)
            return found

        yield opened


def test_a_slow_machine_makes_smaller_steps_and_says_so(slow: Callable[[float], Training]) -> None:
    found = slow(0.09)
    found.prepare(10.0)
    done = found.ready(3.0)  # two steps of 3 * 0.09 s an image
    assert done.images == 5
    assert done.note == "5 a step, not 32"
    sources = found.from_sources(0.01)
    assert sources.images == 5
    assert sources.note == done.note


def test_a_machine_that_is_too_slow_for_a_step_is_not_measured(slow: Callable[[float], Training]) -> None:
    with pytest.raises(NotMeasuredError, match="more than 3 s"):
        slow(10.0).ready(3.0)


def figures(**values: float) -> list[StageSpeed]:
    stages = {
        "decode": "decode, 16 threads", "forward": "forward pass, bf16", "embedding": "embedding, bf16",
        "views": "random views, 16 threads", "ready": "training step, tensors ready",
        "images": "training step, from images",
    }  # fmt: skip
    return [StageSpeed(stages[name], 1, None, 1, value=value) for name, value in values.items()]


@pytest.mark.parametrize(
    ("values", "device", "training", "freeze"),
    [
        (
            {"ready": 1000, "images": 950},
            "cuda",
            "95% of the 1,000 img/s that this GPU can do: it is limited by the",
            "",
        ),
        ({"ready": 1000, "images": 300, "views": 320}, "cuda", "random views limit it (320 views/s)", ""),
        ({"ready": 1000, "images": 600, "views": 9000}, "cuda", "the way to the device limits it", ""),
        ({"ready": 20, "images": 15, "views": 300}, "cpu", "need the same cores", ""),
        ({"decode": 1300, "forward": 3300, "embedding": 900}, "cuda", "", "decoding limits it (1,300 img/s)"),
        ({"decode": 900, "forward": 100, "embedding": 95}, "cpu", "", "the forward pass limits it (100 img/s)"),
        ({"decode": 173, "forward": 129, "embedding": 70}, "cpu", "", "need the same cores"),
        ({"decode": 900, "forward": 23, "embedding": 150}, "cpu", "", "measure again on an idle machine"),
        ({"ready": 5, "images": 15}, "cpu", "measure again on an idle machine", ""),
        ({"decode": 900, "ready": 100}, "cpu", "", ""),
    ],
)
def test_the_verdict_names_what_limits(values: dict[str, float], device: str, training: str, freeze: str) -> None:
    said = verdict(figures(**values), "bf16", device)
    assert len(said) == bool(training) + bool(freeze)
    assert training in " ".join(said)
    assert freeze in " ".join(said)

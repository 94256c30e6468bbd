"""A folder of pictures is predicted about as fast as the slower of its two parts goes alone, in memory that stays flat.

The parts and the whole take turns, slice by slice, so that whatever else the machine does hits all of them alike.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnn_tl.data import transforms
from cnn_tl.data.loader import batches
from cnn_tl.inference.classifier import load
from cnn_tl.inference.images import find
from cnn_tl.runtime import default_workers

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

SLICE, BATCH_SIZE = 288, 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the default backbone with random weights and five classes."""
    import timm

    from cnn_tl.exporting.onnx import write
    from cnn_tl.exporting.options import Options
    from cnn_tl.networks import bundle
    from cnn_tl.preprocessing import Preprocessing

    folder = tmp_path_factory.mktemp("model")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=5)
    spec = Preprocessing.from_pretrained_cfg(network.pretrained_cfg)
    bundle.save_model(folder / "model", network, classes=tuple("abcde"), preprocessing=spec, facts={})
    write(bundle.load(folder / "model"), folder / "model.onnx", Options())
    return folder / "model.onnx"


@pytest.fixture(scope="module")
def flowers(shared: Path) -> list[Path]:
    return list(find(shared / "data" / "flowers5_128"))


def test_the_whole_is_bounded_by_its_slower_part(model: Path, flowers: list[Path]) -> None:
    bare, classifier = load(model), load(model, many=True)
    ready = np.stack([transforms.load(path, classifier.preprocessing) for path in flowers[:BATCH_SIZE]])

    def read(path: Path) -> np.ndarray:
        return transforms.load(path, classifier.preprocessing)

    def decode(part: list[Path]) -> None:
        for _ in batches(part, read, batch_size=BATCH_SIZE, workers=default_workers()):
            pass

    def infer(part: list[Path]) -> None:
        for _ in range(len(part) // BATCH_SIZE):
            bare.logits(ready)

    def predict(part: list[Path]) -> None:
        for _ in classifier.predict(part, batch_size=BATCH_SIZE):
            pass

    stages: list[Callable[[list[Path]], None]] = [decode, infer, predict]
    seconds = dict.fromkeys((stage.__name__ for stage in stages), 0.0)
    infer(flowers[:SLICE])
    for begin in range(0, len(flowers) - SLICE + 1, SLICE):
        for stage in stages:
            start = time.perf_counter()
            stage(flowers[begin : begin + SLICE])
            seconds[stage.__name__] += time.perf_counter() - start
    share = max(seconds["decode"], seconds["infer"]) / seconds["predict"]
    assert share >= 0.85, seconds


def peak_mib(model: Path, pictures: list[Path], output: Path) -> float:
    """Return the most memory that a command needed for these pictures, named through stdin."""
    command = [sys.executable, "-m", "cnn_tl", "predict", str(model), "-", "--output", str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write("".join(f"{path}\n" for path in pictures).encode())
        process.stdin.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss / (1 << 10 if sys.platform == "linux" else 1 << 20)


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="the system does not count memory so")
@pytest.mark.parametrize("name", ["answers.csv", "answers.parquet"])
def test_memory_is_flat(model: Path, flowers: list[Path], tmp_path: Path, name: str) -> None:
    some = peak_mib(model, flowers[:1000], tmp_path / name)
    every = peak_mib(model, flowers, tmp_path / name)
    assert every < some + 32

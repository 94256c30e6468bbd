"""Predicting a folder is about as fast as the slower of decoding and inference alone, and its memory stays flat.

The parts and the whole take turns, slice by slice, so that whatever else the machine does hits all of them alike.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnn_tl.core.cpu import default_workers
from cnn_tl.data.loader import batches
from cnn_tl.data.views import transforms
from cnn_tl.inference.inputs import find
from cnn_tl.inference.loading import load

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

SLICE, BATCH_SIZE = 288, 32


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of the default backbone with random weights and five classes."""
    import timm

    from cnn_tl.core.preprocessing import Preprocessing
    from cnn_tl.exporting.formats.onnx import write
    from cnn_tl.exporting.options import Options
    from cnn_tl.networks import bundle

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
    ready = np.stack([transforms.read_pixels(path, classifier.preprocessing) for path in flowers[:BATCH_SIZE]])

    def read(path: Path) -> np.ndarray:
        return transforms.read_pixels(path, classifier.preprocessing)

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


WEIGHED = """
import sys
from pathlib import Path
from cnn_tl.cli import app
try:
    app.main()
finally:
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    sys.stderr.write(line + "\\n")
"""
"""The command line, which prints its peak memory at the end: wait4 would include the parent's."""


def peak_mib(model: Path, images: list[Path], output: Path) -> float:
    """Return the peak memory of a command for these images, whose paths it reads from stdin."""
    command = [sys.executable, "-c", WEIGHED, "predict", str(model), "-", "--output", str(output)]
    names = "".join(f"{path}\n" for path in images)
    done = subprocess.run(command, input=names, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    kib = int(done.stderr.split()[-2])
    return kib / (1 << 10)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not count memory so")
@pytest.mark.parametrize("name", ["answers.csv", "answers.parquet"])
def test_memory_is_flat(model: Path, flowers: list[Path], tmp_path: Path, name: str) -> None:
    some = peak_mib(model, flowers[:1000], tmp_path / name)
    every = peak_mib(model, flowers, tmp_path / name)
    sys.stderr.write(f"\n{name}: {some:.0f} MiB for 1,000 images, {every:.0f} MiB for all\n")
    assert every < some + 32

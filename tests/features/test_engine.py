"""The engine's outputs are the model's, in order, whatever size the batches have and however short memory is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnn_tl.core.device import inference_precision
from cnn_tl.core.errors import BadImageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.loader import Batch
from cnn_tl.features.cuda_batch_size import cuda_batch_size
from cnn_tl.features.engine import Engine, Pending
from cnn_tl.features.stream import stream

CPU = torch.device("cpu")
SPEC = Preprocessing(4, 4, "bilinear", 1.0, "center", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Means(nn.Module):
    """Returns the mean of each image, and cannot hold more than `fits` images."""

    def __init__(self, fits: int = 10**9, message: str = "CUDA out of memory. Tried to allocate 2 GiB") -> None:
        super().__init__()
        self.fits, self.message = fits, message
        self.sizes: list[int] = []

    def forward(self, x_NCHW: Tensor) -> Tensor:
        self.sizes.append(len(x_NCHW))
        if len(x_NCHW) > self.fits:
            raise RuntimeError(self.message)
        return x_NCHW.mean(dim=(2, 3))


def pixels(count: int, first: int = 0) -> np.ndarray:
    values = np.arange(first, first + count, dtype=np.uint8)
    return np.tile(values[:, None, None, None], (1, 4, 4, 3))


def expected(count: int, first: int = 0) -> np.ndarray:
    return np.tile(np.arange(first, first + count, dtype=np.float32)[:, None] / 255, (1, 3))


def test_memory_that_runs_out_halves_the_batch_for_good() -> None:
    model = Means(fits=5)
    engine = Engine(model, SPEC, CPU, "fp32")
    np.testing.assert_allclose(engine.outputs(pixels(21)), expected(21), rtol=1e-6)
    assert model.sizes == [21, 10, 5, 5, 5, 5, 1]
    model.sizes.clear()
    np.testing.assert_allclose(engine.outputs(pixels(7, 100)), expected(7, 100), rtol=1e-6)
    assert model.sizes == [5, 2]


def test_memory_for_not_even_one_image_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        Engine(Means(fits=0), SPEC, CPU, "fp32").outputs(pixels(3))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    model = Means(fits=1, message="mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="multiplied"):
        Engine(model, SPEC, CPU, "fp32").outputs(pixels(3))
    assert model.sizes == [3]


def test_each_image_alone() -> None:
    model = Means(fits=1)
    np.testing.assert_allclose(Engine(model, SPEC, CPU, "fp32", alone=True).outputs(pixels(3)), expected(3), rtol=1e-6)
    assert model.sizes == [1, 1, 1]
    with pytest.raises(RuntimeError, match="out of memory"):
        Engine(Means(fits=0), SPEC, CPU, "fp32", alone=True).outputs(pixels(3))


def batches() -> Iterator[Batch[str]]:
    error = BadImageError(None, "truncated JPEG")
    yield Batch(["a", "b"], pixels(2), [])
    yield Batch([], pixels(0), [("c", error)])
    yield Batch(["d"], pixels(1, 9), [("e", error)])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_stream_keeps_the_order_and_passes_failures_on(asynchronous: bool) -> None:
    engine = Engine(Means(), SPEC, CPU, "fp32")
    events: list[str] = []
    start, finish = engine.start, engine.finish

    def started(pixels: np.ndarray) -> Pending:
        events.append(f"start {len(pixels)}")
        return start(pixels)

    def finished(pending: Pending) -> np.ndarray:
        outputs = finish(pending)
        events.append(f"finish {len(outputs)}")
        return outputs

    engine.start, engine.finish = started, finished  # type: ignore[method-assign]
    engine.is_asynchronous = asynchronous
    monkey = engine._padded_size
    engine._padded_size = lambda count: count if asynchronous else monkey(count)  # type: ignore[method-assign]
    found = list(stream(engine, batches()))
    assert [batch.items for batch, _ in found] == [["a", "b"], [], ["d"]]
    assert [len(batch.failures) for batch, _ in found] == [0, 1, 1]
    assert [len(rows) for _, rows in found] == [2, 0, 1]
    np.testing.assert_allclose(found[0][1], expected(2), rtol=1e-6)
    np.testing.assert_allclose(found[2][1], expected(1, 9), rtol=1e-6)
    assert events == ["start 2", "finish 2", "start 1", "finish 1"]


def test_on_cuda_a_batch_is_read_after_the_next_one_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Means(), SPEC, CPU, "fp32")
    engine.is_asynchronous = True
    order: list[str] = []
    finish = engine.finish
    monkeypatch.setattr(engine, "finish", lambda pending: (order.append("finished"), finish(pending))[1])

    def arriving() -> Iterator[Batch[int]]:
        for number in range(3):
            order.append(f"read {number}")
            yield Batch([number], pixels(1, number), [])

    rows = [outputs for _, outputs in stream(engine, arriving())]
    assert order == ["read 0", "read 1", "finished", "read 2", "finished", "finished"]
    np.testing.assert_allclose(np.concatenate(rows), expected(3), rtol=1e-6)


def test_on_cuda_batches_have_few_sizes() -> None:
    """cuDNN chooses kernels for each size that occurs."""
    model = Means()
    engine = Engine(model, SPEC, CPU, "fp32")
    engine.is_asynchronous = True
    for count in (1, 7, 8, 9, 33, 64, 200):
        np.testing.assert_allclose(engine.outputs(pixels(count)), expected(count), rtol=1e-6)
    assert model.sizes == [8, 8, 8, 16, 64, 64, 256]


@pytest.mark.parametrize(
    ("side", "images"), [(28, 256), (224, 256), (240, 128), (384, 64), (512, 32), (1024, 8), (4000, 8)]
)
def test_a_batch_on_cuda_holds_fewer_large_images(side: int, images: int) -> None:
    spec = Preprocessing(side, side, "bilinear", 1.0, "center", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert cuda_batch_size(spec) == images


@pytest.mark.parametrize("device", ["cpu", "mps"])
@pytest.mark.parametrize("wanted", ["auto", "fp32", "bf16"])
def test_elsewhere_than_on_cuda_predictions_are_in_float32(device: str, wanted: str) -> None:
    assert inference_precision(torch.device(device), wanted) == "fp32"  # type: ignore[arg-type]


@pytest.mark.parametrize(("wanted", "there", "precision"), [
    ("auto", True, "bf16"), ("bf16", True, "bf16"), ("fp32", True, "fp32"), ("auto", False, "fp32"),
    ("bf16", False, "fp32"),
])  # fmt: skip
def test_on_cuda_predictions_are_in_bf16_if_the_hardware_has_it(
    monkeypatch: pytest.MonkeyPatch, wanted: str, there: bool, precision: str
) -> None:
    monkeypatch.setattr("cnn_tl.core.device.has_fast_bf16", lambda device: there)
    assert inference_precision(torch.device("cuda"), wanted) == precision  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "sizes"),
    [
        ([1, 9, 30], [8, 16, 32]),
        ([40, 9], [64, 64]),
        ([256, 140, 44, 9, 3], [256, 256, 256, 256, 8]),
        ([100], [256]),  # validation images; other images went in batches of the usual size before
        ([64, 64, 37], [64, 64, 64]),  # --batch-size 64
        ([512, 300], [512, 512]),
    ],
)
def test_the_last_batch_on_cuda_has_a_size_whose_kernels_are_chosen(counts: list[int], sizes: list[int]) -> None:
    engine = Engine(nn.Flatten(), SPEC, CPU, "fp32")
    engine.is_asynchronous = True
    assert [engine._padded_size(count) for count in counts] == sizes
    engine.at_once = 40
    assert engine._padded_size(30) == 30, "memory is short"

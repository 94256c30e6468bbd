"""An image's features are the same bits whatever comes with it, in whatever order and on however many threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from traced import tiny

from cnn_tl.core.errors import ArtefactError
from cnn_tl.features.onnx_engine import OnnxEngine
from cnn_tl.features.stream import stream

pytestmark = pytest.mark.numbers


def engine(workers: int | None = None) -> OnnxEngine:
    network = tiny()
    return OnnxEngine(network.graph, network.tensors, network.spec, workers=workers)


def test_features_are_those_of_torch() -> None:
    pixels = tiny().pixels(9)
    expected, found = tiny().torch_features(pixels), engine().outputs(pixels)
    assert (found.dtype, found.shape) == (np.float32, (9, 12))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("workers", [None, 1, 3])
def test_an_image_gives_the_same_bits_in_any_batch(workers: int | None) -> None:
    pixels, one = tiny().pixels(40), engine(workers)
    whole = engine(2).outputs(pixels)
    for part in (slice(0, 1), slice(3, 5), slice(7, 20), slice(8, 40)):
        assert np.array_equal(one.outputs(pixels[part]), whole[part])
    order = np.random.default_rng(1).permutation(40)
    assert np.array_equal(one.outputs(pixels[order]), whole[order])
    assert np.array_equal(one.outputs(np.ascontiguousarray(pixels[:, :, ::-1])[:, :, ::-1]), whole)


def test_several_threads_may_use_one_engine() -> None:
    pixels, one = tiny().pixels(16), engine(2)
    whole = one.outputs(pixels)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda first: one.outputs(pixels[first : first + 2]), [*range(0, 16, 2)] * 5))
    assert np.array_equal(np.concatenate(parts), np.concatenate([whole] * 5))


def test_an_engine_computes_at_once_and_knows_how_long_it_took() -> None:
    one, pixels = engine(), tiny().pixels(2)
    assert not one.is_asynchronous
    one.warm_up(8)
    assert one.seconds == 0.0
    assert np.array_equal(one.finish(one.start(pixels)), one.outputs(pixels))
    assert one.seconds > 0


class Images:
    def __init__(self, pixels: np.ndarray) -> None:
        self.items, self.pixels = list(range(len(pixels))), pixels


def test_a_stream_of_it_keeps_the_order() -> None:
    pixels, one = tiny().pixels(5), engine()
    batches = [Images(pixels[:2]), Images(pixels[:0]), Images(pixels[2:])]
    found = list(stream(one, batches))
    assert [batch for batch, _ in found] == batches
    assert found[1][1].shape == (0, 0)
    assert np.array_equal(np.concatenate([found[0][1], found[2][1]]), one.outputs(pixels))


def test_tensors_of_another_model() -> None:
    other = {name: array[:3] if array.ndim else array for name, array in tiny().tensors.items()}
    with pytest.raises(ArtefactError, match="the graph of the backbone cannot be loaded"):
        OnnxEngine(tiny().graph, other, tiny().spec)

"""Features do not depend on who shares the batch, or how many do, and are those that the classifier would get."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cnn_tl.core.device import Precision
from cnn_tl.features.embedding import embedder, prepared_embedder
from cnn_tl.networks import backbone
from cnn_tl.networks.backbone import Network, classify, to_input
from cnn_tl.networks.pretrained import weights

CPU = torch.device("cpu")
BATCH_SIZE = 16
pytestmark = pytest.mark.numbers


@pytest.fixture(scope="module")
def network() -> Network:
    return backbone.build(
        "test_resnet", weights.Source("random", None, ""), num_classes=3, image_size=64, seed=0
    )  # fmt: skip


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)


def features(network: Network, pixels: np.ndarray, precision: Precision = "fp32") -> np.ndarray:
    parts = [pixels[start : start + BATCH_SIZE] for start in range(0, len(pixels), BATCH_SIZE)]
    with embedder(network, CPU, precision) as frozen:
        return np.concatenate([frozen.outputs(part) for part in parts])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_image_gives_the_same_bits_in_any_batch(network: Network, pixels: np.ndarray, precision: Precision) -> None:
    whole = features(network, pixels, precision)
    for part in (slice(0, 1), slice(3, 5), slice(7, 20), slice(8, 40)):
        assert np.array_equal(features(network, pixels[part], precision), whole[part])
    order = np.random.default_rng(1).permutation(40)
    assert np.array_equal(features(network, pixels[order], precision), whole[order])


def test_on_a_cpu_each_image_is_alone(network: Network, pixels: np.ndarray) -> None:
    """Which kernels a batch gets depends on its size, and on some processors an image's place in it changes a bit."""
    seen: list[int] = []
    with embedder(network, CPU, "fp32") as frozen:
        watched = network.model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        assert len(frozen.outputs(pixels[:5])) == 5
        watched.remove()
    assert seen == [1] * 5


def test_the_classifier_makes_logits_of_them(network: Network, pixels: np.ndarray) -> None:
    found = features(network, pixels)
    assert found.dtype == np.float32
    model = network.model.eval()
    with torch.inference_mode():
        logits = model(to_input(pixels, network.preprocessing, CPU))
        assert torch.allclose(classify(model, torch.from_numpy(found)), logits, atol=1e-5)


def test_the_classifier_is_back_afterwards(network: Network, pixels: np.ndarray) -> None:
    before = network.model.get_classifier()  # type: ignore[operator]
    features(network, pixels[:8])
    assert network.model.get_classifier() is before  # type: ignore[operator]


def test_an_engine_that_is_prepared_works_on_a_copy(network: Network, pixels: np.ndarray) -> None:
    before = network.model.get_classifier()  # type: ignore[operator]
    engine = prepared_embedder(network, CPU, "fp32", BATCH_SIZE)
    assert network.model.get_classifier() is before  # type: ignore[operator]
    alone = features(network, pixels[:BATCH_SIZE])  # each image by itself: small features are rounded otherwise
    np.testing.assert_allclose(engine.outputs(pixels[:BATCH_SIZE]), alone, rtol=1e-4, atol=1e-6)
    assert engine.seconds > 0


@pytest.mark.gpu
def test_on_cuda_a_batch_is_not_held_up_by_the_next(network: Network, pixels: np.ndarray) -> None:
    device = torch.device("cuda")
    with embedder(network, device, "fp32") as frozen:
        alone = frozen.outputs(pixels)
        begun = frozen.start(pixels)
        torch.cuda._sleep(10**9)  # some half a second of work that begins after it
        end = torch.cuda.Event()
        end.record()
        assert np.array_equal(frozen.finish(begun), alone)
        assert not end.query()
        end.synchronize()
    network.model.to(CPU)

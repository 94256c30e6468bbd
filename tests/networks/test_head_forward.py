"""What a head computes: the exact value, rounded once, whatever stands beside it, and the same as torch."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cnn_tl.networks import head_modules
from cnn_tl.networks.head_forward import forward_of, linear

RANDOM = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[np.float32]:
    return RANDOM.normal(size=shape).astype(np.float32)


HEADS: dict[str, tuple[dict[str, Any] | None, dict[str, NDArray[np.float32]]]] = {
    "linear": (None, {"weight": normal(5, 40), "bias": normal(5)}),
    "mlp": (
        {"kind": "mlp", "hidden": 16},
        {"hidden.weight": normal(16, 40), "hidden.bias": normal(16), "output.weight": normal(5, 16)}
        | {"output.bias": normal(5)},
    ),
    "knn": (
        {"kind": "knn", "neighbours": 7},
        {"bank": np.abs(normal(60, 40)) / 6, "votes": np.eye(5, dtype=np.float32)[np.arange(60) % 5]},
    ),
}


@pytest.mark.parametrize("kind", HEADS)
def test_an_image_gets_the_same_bits_alone_and_among_others(kind: str) -> None:
    forward = forward_of(*HEADS[kind], num_classes=5)
    features = normal(600, 40)
    together = forward(features)
    assert together.dtype == np.float32
    assert np.array_equal(together, np.concatenate([forward(row[None]) for row in features]))
    assert np.array_equal(together[::-1], forward(features[::-1]))


@pytest.mark.parametrize("kind", HEADS)
def test_no_images_give_no_logits(kind: str) -> None:
    assert forward_of(*HEADS[kind], num_classes=5)(normal(0, 40)).shape == (0, 5)


@pytest.mark.parametrize("kind", HEADS)
def test_torch_gives_the_same(kind: str) -> None:
    spec, tensors = HEADS[kind]
    features = normal(50, 40)
    state = {name: torch.from_numpy(array) for name, array in tensors.items()}
    if spec is None:
        theirs = torch.nn.functional.linear(torch.from_numpy(features), state["weight"], state["bias"])
    else:
        theirs = head_modules.build(spec, state)(torch.from_numpy(features)).detach()
    np.testing.assert_allclose(forward_of(spec, tensors, 5)(features), theirs, rtol=1e-5, atol=1e-5)


def test_each_logit_is_the_exact_value_rounded_once() -> None:
    """Where float64 cannot tell between two float32 numbers, the sum is repeated exactly."""
    weight, bias, features = normal(3, 9), normal(3), normal(20, 9)
    # 1 + 2^-24 lies between two float32 numbers; what is added decides, and float64 loses it beside 2^40
    weight[0], bias[0] = [2.0**40, 1, 2.0**-24, 2.0**-50, -(2.0**40), 0, 0, 0, 0], 0
    features[0] = 1
    logits = linear(weight, bias)(features)
    for row, answer in zip(features, logits, strict=True):
        for k in range(3):
            products = [Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, weight[k], strict=True)]
            assert answer[k] == np.float32(float(sum(products, Fraction(float(bias[k])))))
    assert logits[0, 0] == np.float32(1 + 2.0**-23)
    assert (features[0] @ weight.T)[0] != logits[0, 0]


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_what_is_not_finite_stays_so(broken: float) -> None:
    features = normal(4, 40)
    features[2, 3] = broken
    logits = forward_of(*HEADS["linear"], num_classes=5)(features)
    assert np.isfinite(logits).all(1).tolist() == [True, True, False, True]


@pytest.mark.parametrize("kind", HEADS)
def test_another_number_of_classes_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="gives 5 logits for 6 classes"):
        forward_of(*HEADS[kind], num_classes=6)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no classifier of the kind 'tree'"):
        forward_of({"kind": "tree"}, {}, 5)

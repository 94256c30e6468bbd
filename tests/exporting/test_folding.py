"""A folded network has fewer nodes and computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from cnn_tl.core import telemetry
from cnn_tl.exporting.folding import fold

HEAD = '<ir_version: 10, opset_import: ["" : 20]> network (float[batch, 3, 8, 8] x) => (float[batch, C, H, W] y)'
NORM = "y = BatchNormalization <epsilon = 0.01> (z, scale, shift, mean, variance)"
SHAPES = {"kernel": (4, 3, 3, 3), "bias": (4,), "turned": (3, 4, 3, 3)} | dict.fromkeys(
    ("scale", "shift", "mean"), (4,)
)


def network(steps: str) -> onnx.ModelProto:
    model = parser.parse_model(f"{HEAD} {{ {steps} }}")
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=shape) for name, shape in SHAPES.items()}
    weights["variance"] = random.uniform(0.1, 3, 4)
    read = {name for node in model.graph.node for name in node.input}
    kept = {name: array.astype(np.float32) for name, array in weights.items() if name in read}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in kept.items())
    return model


def result(model: onnx.ModelProto) -> NDArray[np.float32]:
    onnxruntime = telemetry.onnxruntime()
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    y: NDArray[np.float32] = session.run(["y"], {"x": np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype("f4")})[
        0
    ]
    return y


@pytest.mark.parametrize(
    ("steps", "left"),
    [
        (f"z = Conv (x, kernel) {NORM}", ["Conv"]),
        (f"z = Conv (x, kernel, bias) {NORM}", ["Conv"]),
        (f"k = Transpose <perm = [1, 0, 2, 3]> (turned) z = Conv (x, k) {NORM}", ["Conv"]),
        ("one = Constant <value = float {1.0}> () k = Add (kernel, one) y = Conv (x, k, bias)", ["Conv"]),
        # another node reads what the convolution gives, or its kernel
        (f"z = Conv (x, kernel) {NORM.replace('y =', 'n =')} y = Add (n, z)", ["Conv", "BatchNormalization", "Add"]),
        (
            f"z = Conv (x, kernel) {NORM.replace('y =', 'n =')} o = Conv (x, kernel) y = Add (n, o)",
            ["Conv", "BatchNormalization", "Conv", "Add"],
        ),
        ("y = BatchNormalization (x, shares, shares, shares, shares)", ["BatchNormalization"]),
    ],
)
def test_what_is_folded_and_what_is_left(steps: str, left: list[str]) -> None:
    model = network(steps)
    if "shares" in steps:
        model.graph.initializer.append(numpy_helper.from_array(np.full(3, 0.5, np.float32), "shares"))
    expected = result(model)
    fold(model)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == left
    np.testing.assert_allclose(result(model), expected, atol=1e-4)
    read = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= read


def test_a_network_with_branches_stays_as_it_is() -> None:
    model = network(f"""
        yes = Constant <value = bool {{1}}> ()
        k = If (yes) <then_branch = one () => (float[4, 3, 3, 3] a) {{ a = Identity (kernel) }},
                      else_branch = other () => (float[4, 3, 3, 3] b) {{ b = Neg (kernel) }}>
        z = Conv (x, k) {NORM}""")
    kernel = np.ones(SHAPES["kernel"], np.float32)
    model.graph.initializer.append(numpy_helper.from_array(kernel, "kernel"))
    before = model.SerializeToString()
    assert result(model).shape == (2, 4, 6, 6)
    fold(model)
    assert model.SerializeToString() == before

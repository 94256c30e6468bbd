"""What an export is compared with is named truthfully."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cnn_tl.exporting.original import original
from cnn_tl.inference.loading import load
from cnn_tl.networks import bundle


def test_the_original_is_what_predict_runs(graph_folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), np.uint8)
    found = original(bundle.read(graph_folder))
    assert found.name == "predict on the CPU: onnxruntime, one image at a time"
    np.testing.assert_array_equal(found.outputs(pixels), load(graph_folder, device="cpu").outputs(pixels))
    in_torch = original(bundle.load(graph_folder))
    assert in_torch.name == "the model in torch"
    np.testing.assert_allclose(found.outputs(pixels), in_torch.outputs(pixels), atol=1e-4)

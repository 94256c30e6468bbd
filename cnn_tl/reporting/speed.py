"""How many images a model answers in a second on the CPU of this machine, for models side by side."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from cnn_tl.core.errors import CnnTlError
from cnn_tl.inference.loading import is_onnx, load

IMAGES, ROUNDS = 16, 3
"""Images of noise that go through the model together, and how often: the fastest round counts."""


def images_per_second(model: Path) -> float | None:
    """Return the throughput of a run, bundle or .onnx file without decoding; None if it cannot be loaded here."""
    with suppress(CnnTlError, ImportError, RuntimeError):  # such as a lack of memory
        classifier = load(model, "auto" if is_onnx(model) else "cpu", many=True)
        spec = classifier.preprocessing
        pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, spec.height, spec.width, 3), dtype=np.uint8)
        classifier.logits(pixels[:2])
        seconds = []
        for _ in range(ROUNDS):
            started = time.perf_counter()
            classifier.logits(pixels)
            seconds.append(time.perf_counter() - started)
        return round(IMAGES / max(min(seconds), 1e-9), 1)
    return None

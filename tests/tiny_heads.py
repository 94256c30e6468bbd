"""Heads of each kind with random weights, for the features of the tiny network."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

D, K = 96, 2
SPECS: dict[str, Any] = {"linear": None, "mlp": {"kind": "mlp"}, "knn": {"kind": "knn", "neighbours": 5}}


def tensors_of(kind: str) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(0)

    def normal(*shape: int) -> NDArray[np.float32]:
        return random.normal(size=shape).astype(np.float32)

    if kind == "linear":
        return {"weight": normal(K, D), "bias": normal(K)}
    if kind == "mlp":
        layers = {"hidden.weight": normal(7, D), "hidden.bias": normal(7)}
        return {**layers, "output.weight": normal(K, 7), "output.bias": normal(K)}
    rows = np.abs(normal(30, D))
    bank = np.concatenate([rows, rows[:8]]) / np.linalg.norm(rows, axis=1).mean()  # eight are as near as their twins
    return {"bank": bank, "votes": np.eye(K, dtype=np.float32)[np.arange(len(bank)) % K]}

"""timm: a folder in the layout of the Hugging Face hub, which timm, transformers and cnn-tl load as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core import files
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.exporting.options import Options
from cnn_tl.exporting.parity import TakesNormalised
from cnn_tl.networks import bundle
from cnn_tl.networks.bundle import Bundle


class TimmModel(TakesNormalised):
    """The folder as timm loads it; see `parity.Exported`."""

    def __init__(self, folder: Path) -> None:
        import timm

        self._model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        self.facts: Mapping[str, str] = {"architecture": str(bundle.read_config(folder)["architecture"])}

    def __call__(self, x_nchw: NDArray[Any]) -> NDArray[np.float32]:
        """Return the logits [N, K] of normalised images."""
        import torch

        with torch.inference_mode():
            return self._model(torch.from_numpy(x_nchw)).numpy()  # type: ignore[no-any-return]


def write(trained: Bundle, path: Path, options: Options) -> TimmModel:
    """Write the folder's files into `path` and return the model as timm reads it back.

    Raises:
        UsageError: timm cannot load this model, because of its classifier or its network.
    """
    config = bundle.read_config(trained.path)
    if reason := bundle.only_here(config):
        raise UsageError(f"{printable(trained.path)} cannot be written for timm: {reason}; --format onnx can")
    tensors = {name: tensor.numpy() for name, tensor in trained.model.state_dict().items()}
    bundle.write_files(path, tensors, config)
    graph = trained.path / bundle.GRAPH
    if graph.is_file():  # with it, cnn-tl runs the folder without torch
        files.write_bytes(path / bundle.GRAPH, graph.read_bytes())
    if trained.evidence is not None:
        files.write_arrays(path / bundle.EVIDENCE, trained.evidence.arrays())
    return TimmModel(path)

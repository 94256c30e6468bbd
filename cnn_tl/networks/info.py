"""What there is to know about a network without building it, and remembering that between runs.

Building a network takes torch, timm and seconds. A run in mode `freeze` whose features are all at hand needs neither:
it needs the backbone's tensors to write them into the bundle, and a few facts. Both are kept beside the features:

    networks/<request>/  card.json  backbone.safetensors  SHA256SUMS  (what was measured:) speeds-*.json  loop-*.json

A remembered network is used only while the weights file that would be taken for it now has the same SHA-256 as the one
that it came from. Which file that is, is found out anew: the hub may have published other weights meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, CnnTlError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks.pretrained.weights import Places

FORMAT_VERSION = 2
FOLDER = "networks"
LOOP = "loop"
"""How the names of files begin that say how fast a training loop is (`training/step/precision.py`)."""

_CARD = "card.json"
_BACKBONE = "backbone.safetensors"


@dataclass(frozen=True)
class Card:
    """A network with a frozen backbone under one linear classifier, in words and numbers.

    Attributes:
        name: timm's name as it was asked for, with its tag if one was given.
        architecture: timm's name without the tag.
        arguments: what `timm.create_model` was told besides the name.
        timm: the version that built it.
        weights: where the weights came from, in words.
        preprocessing: what its images go through.
        backbone_sha256: digest of every tensor but the classifier's, see `tensors_digest`.
        num_features: D, what the classifier takes.
        backbone_parameters: their number, without the classifier's.
        classifier: the classifier's name inside the model.
        convolution: it is a 1x1 convolution rather than a `Linear`.
        config: the bundle's config.json, but for the classes.
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

    def with_limits(self, max_pixels: int, min_side: int) -> Card:
        """Return the card with the recipe's limits for images."""
        return replace(self, preprocessing=replace(self.preprocessing, max_pixels=max_pixels, min_side=min_side))

    def classifier_tensors(self, weight_KD: NDArray[np.float32], bias_K: NDArray[np.float32]) -> dict[str, Any]:
        """Return a linear head as the tensors of the model's classifier."""
        shape = (*weight_KD.shape, 1, 1) if self.convolution else weight_KD.shape
        return {f"{self.classifier}.weight": weight_KD.reshape(shape), f"{self.classifier}.bias": bias_K}


def tensors_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 over names, shapes, types and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")  # a scalar stays one
        digest.update(f"{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(array.data if array.ndim else array.tobytes())
    return digest.hexdigest()


def remember(folder: Path, network: Remembered) -> None:
    """Keep a network in the folder that `folder_of` gives, unless another process was quicker.

    Raises:
        ResourceError: the folder cannot be written.
    """
    assert network.source is not None
    known = recall(folder)
    if known is not None and known.card == network.card:
        return  # what has been measured of it stays too
    card = asdict(network.card) | {"preprocessing": network.card.preprocessing.to_dict()}
    facts = {
        "format_version": FORMAT_VERSION,
        "source": str(network.source),
        "places": asdict(network.places) if network.places else None,
        "source_sha256": files.sha256_file(network.source),
        "card": card,
    }
    loops = {file.name: file.read_bytes() for file in folder.glob(f"{LOOP}-*.json")}
    with files.atomic_folder(folder) as fresh:
        files.write_arrays(fresh / _BACKBONE, network.tensors())
        files.write_json(fresh / _CARD, facts)
    for name, found in loops.items():  # what a loop takes does not depend on the weights
        files.write_bytes(folder / name, found)


def recall(folder: Path) -> Remembered | None:
    """Return the network that is remembered in `folder`, if its weights would still be the same."""
    try:
        facts = files.read_json(folder / _CARD)
        if facts["format_version"] != FORMAT_VERSION:
            return None
        places = Places(**facts["places"]) if facts["places"] else None
        source = places.file() if places else Path(facts["source"])
        if source is None or files.sha256_file(source) != facts["source_sha256"]:
            return None
        files.verify_checksums(folder, required=(_CARD, _BACKBONE))
        values = facts["card"]
        card = Card(**values | {"preprocessing": Preprocessing.from_dict(values["preprocessing"])})
    except (CnnTlError, OSError, AttributeError, KeyError, TypeError, ValueError):
        return None
    return Remembered(card, source, folder / _BACKBONE, places)


@dataclass(frozen=True)
class Remembered:
    """A card and where its tensors are.

    Attributes:
        source: the weights file that the network came from.
        backbone: safetensors file, or the tensors themselves.
        places: where the file is looked for; None for one that the user has named.
    """

    card: Card
    source: Path | None
    backbone: Path | Mapping[str, NDArray[Any]]
    places: Places | None = None

    def tensors(self) -> Mapping[str, NDArray[Any]]:
        """Return the backbone's tensors by name.

        Raises:
            ArtefactError: they are not what the card says; the file was damaged or removed meanwhile.
        """
        if not isinstance(self.backbone, Path):
            return self.backbone
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays = load_file(self.backbone)
        except (SafetensorError, OSError, ValueError) as error:
            raise ArtefactError(f"the remembered network {self.backbone} cannot be read: {error}") from error
        if tensors_digest(arrays) != self.card.backbone_sha256:
            raise ArtefactError(f"the remembered network {self.backbone} is damaged")
        return arrays


def folder_of(root: Path, model: str, weights: Path | None, image_size: int | None) -> Path:
    """Return where a network is remembered: by the model's name, the weights file and the image size."""
    request = [
        FORMAT_VERSION, model, str(weights.resolve()) if weights else None, image_size,
        version("timm"), version("torch"), os.environ.get("HF_HOME"), os.environ.get("HF_HUB_CACHE"),
    ]  # fmt: skip
    return root / FOLDER / hashlib.sha256(json.dumps(request).encode()).hexdigest()[:32]

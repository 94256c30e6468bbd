"""Write what ships of the default backbones: `python -m cnn_tl.networks.graph.make` with their packages installed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from torch import nn

from cnn_tl.core import files
from cnn_tl.networks import backbone
from cnn_tl.networks.graph import shipped, trace
from cnn_tl.networks.graph.shipped import Place, Shipped
from cnn_tl.networks.pretrained import state_dict, weights

ARCHITECTURES = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")


def make(architecture: str) -> tuple[Shipped, bytes]:
    """Return the description of a default backbone, and its graph.

    Raises:
        ResourceError: the package with its weights is not installed.
        NoGraphError: torch cannot express it in ONNX.
    """
    source = weights.locate(architecture)
    built = backbone.build(architecture, source, num_classes=1000, image_size=None, seed=0)
    model = weights.create(architecture, source)
    graph = trace.graph_of(built.model, built.preprocessing)
    known = backbone.describe(built, backbone.require_linear_classifier(built))
    assert source.path is not None, "a package has a file"
    assert known.published is not None, "a package is published"
    tag = model.pretrained_cfg["tag"]  # type: ignore[index]
    found = Shipped(
        info=replace(known.info, name=architecture),
        published=known.published,
        file_sha256=files.sha256_file(source.path),
        tensors=_places(source.path, model),
        names=[architecture, f"{architecture}.{tag}"],
    )
    return found, graph


def _places(path: Path, model: nn.Module) -> list[Place]:
    """Return where in a weights file the bytes of each of the model's tensors lie; equal bytes elsewhere do as well."""
    content, end, places = path.read_bytes(), 0, []
    for name, tensor in state_dict.in_order(state_dict.read(path), model, str(path)).items():
        data = bytes(tensor.as_strided((tensor.numel(),), (1,), tensor.storage_offset()).numpy())
        start = content.find(data, end)
        start = content.find(data) if start < 0 else start
        assert start >= 0, f"{name} does not lie in one piece in {path}"
        end = start + len(data)
        places.append(Place(name, tensor.numpy().dtype.str, tensor.shape, tensor.numpy().strides, start))
    return places


def as_text(found: Shipped) -> str:
    """Return the description as JSON with a line for each key and each tensor."""
    values = found.to_json()
    lines = [f"{json.dumps(key)}: {json.dumps(value)}," for key, value in values.items() if key != "tensors"]
    tensors = ",\n".join(json.dumps(one) for one in values["tensors"])
    return "\n".join(["{", *lines, f'"tensors": [\n{tensors}\n]', "}", ""])


def main() -> None:
    """Write the files of all default backbones."""
    for architecture in ARCHITECTURES:
        found, graph = make(architecture)
        files.write_bytes(shipped.FOLDER / f"{architecture}.onnx", graph)
        files.write_text(shipped.FOLDER / f"{architecture}.json", as_text(found))


if __name__ == "__main__":
    main()

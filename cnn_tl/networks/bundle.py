"""A trained model as a self-contained folder, in the layout of timm and the Hugging Face hub.

    model/
      config.json          timm's own keys (architecture, label_names, pretrained_cfg, ...) and ours under "cnn_tl"
      model.safetensors    the weights
      graph.onnx           what the backbone computes, without weights: on a CPU it runs without torch; not always there
      evidence.safetensors what is known of held-out images, see `abstention.evidence`; not always there
      README.md            the model card, which users may edit
      SHA256SUMS

`timm.create_model("local-dir:model", pretrained=True)` loads it without this package, and so does
`transformers.pipeline("image-classification", model="model")`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_tl import __version__
from cnn_tl.abstention.evidence import Evidence
from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks import model_card
from cnn_tl.networks.graph import shipped
from cnn_tl.networks.trained import Bundle as Bundle
from cnn_tl.networks.trained import Description as Description
from cnn_tl.networks.trained import Stored as Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

FORMAT_VERSION = 2
LINEAR_FORMAT_VERSION = 1
"""The version of a bundle whose classifier is one linear layer: every version of cnn-tl reads it."""

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
GRAPH = "graph.onnx"
EVIDENCE = "evidence.safetensors"
FOLDER_IN_RUN = "model"
RECIPE_OF_RUN = "recipe.yaml"
CLASSIC = ("lenet5", "lenet5_tanh", "googlenet")
"""The models that `networks.classic` adds to timm's."""


def save(
    folder: Path,
    tensors: Mapping[str, NDArray[Any]],
    config: Mapping[str, Any],
    *,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    facts: Mapping[str, Any],
    head: Mapping[str, Any] | None = None,
    graph: bytes | None = None,
    classifier: str | None = None,
    evidence: Evidence | None = None,
) -> None:
    """Write the bundle atomically; it replaces an older one.

    Args:
        tensors: the model's state dict.
        config: what `config_of` returns for the model.
        facts: plain JSON data, stored under the key "cnn_tl" beside the format version.
        head: the `spec` of a classifier that is not one linear layer, see `head_modules.build`; timm cannot load it.
        graph: of the backbone under that classifier, see `networks.graph.session`; None if there is none.
        classifier: its name inside the model; needed with a graph.
        evidence: of held-out images; None if there is none.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    ours = {
        "format_version": FORMAT_VERSION if head else LINEAR_FORMAT_VERSION,
        "version": __version__,
        "preprocessing": preprocessing.to_dict(),
        **({"head": dict(head)} if head else {}),
        **({} if graph is None else {"classifier": classifier}),
        **facts,
    }
    whole = {**config, "num_classes": len(classes), "label_names": list(classes), "cnn_tl": ours}
    if "num_classes" in config.get("pretrained_cfg", {}):
        whole["pretrained_cfg"] = {**config["pretrained_cfg"], "num_classes": len(classes)}
    with files.atomic_folder(folder) as fresh:
        write_files(fresh, tensors, whole)
        if graph is not None:
            files.write_bytes(fresh / GRAPH, graph)
        if evidence is not None:
            files.write_arrays(fresh / EVIDENCE, evidence.arrays())


def write_files(folder: Path, tensors: Mapping[str, NDArray[Any]], config: Mapping[str, Any]) -> None:
    """Write the files of a bundle, except for the checksums, into an empty folder.

    Args:
        config: the contents of config.json. The number of classes is removed from `model_args`, where transformers
            refuses it.
    """
    arguments = {name: value for name, value in config.get("model_args", {}).items() if name != "num_classes"}
    config = {**config, **({"model_args": arguments} if "model_args" in config else {})}
    files.write_arrays(folder / WEIGHTS, tensors, {"format": "pt"})
    files.write_json(folder / CONFIG, config)
    files.write_text(folder / model_card.NAME, model_card.text(config, reason=only_here(config)))


def only_here(config: Mapping[str, Any]) -> str | None:
    """Return why timm and transformers cannot load a model; None if they can.

    Args:
        config: its config.json.
    """
    head = config["cnn_tl"].get("head")
    if head is not None:
        return f"its classifier is of the kind {head.get('kind')}, not one linear layer"
    if config["architecture"] in CLASSIC:
        return f"timm has no {config['architecture']}"
    return None


def save_model(
    folder: Path,
    model: nn.Module,
    *,
    classes: Sequence[str],
    preprocessing: Preprocessing,
    facts: Mapping[str, Any],
    graph: bytes | None = None,
    classifier: str | None = None,
    evidence: Evidence | None = None,
) -> None:
    """Write the bundle of a timm model as it is; see `save`."""
    from cnn_tl.networks.timm_model import config_of

    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    about: dict[str, Any] = {"classes": classes, "preprocessing": preprocessing, "facts": facts}
    config = config_of(model, preprocessing)
    save(folder, tensors, config, graph=graph, classifier=classifier, evidence=evidence, **about)


def find(path: Path) -> Path:
    """Return the bundle's folder for a run folder or a bundle.

    Raises:
        ArtefactError: there is no finished model at `path`.
    """
    for folder in (path, path / FOLDER_IN_RUN):
        if (folder / CONFIG).is_file():
            return folder
    if (path / RECIPE_OF_RUN).is_file():
        raise ArtefactError(
            f"{printable(path)} holds no model yet: its training has not finished; go on with "
            f"cnn-tl train --resume --output {shlex.quote(printable(path))}"
        )
    if not path.exists():
        raise ArtefactError(f"{printable(path)} does not exist; name a run folder or a bundle")
    raise ArtefactError(
        f"{printable(path)} is neither a run folder nor a bundle of cnn-tl (a folder with {CONFIG} and {WEIGHTS})"
    )


def run_of(folder: Path) -> Path | None:
    """Return the run folder that a bundle is in; None for a bundle outside of a run."""
    whole = folder.resolve()
    return whole.parent if whole.name == FOLDER_IN_RUN else None


def load(path: Path) -> Bundle:
    """Load the bundle at `path` (a run folder or a bundle), after checking all of its files.

    Raises:
        ArtefactError: it is missing, damaged, foreign or newer than this version, or its weights do not fit.
    """
    from cnn_tl.networks import timm_model
    from cnn_tl.networks.pretrained.state_dict import is_finite

    folder = find(path)
    config = read_config(folder)
    files.verify_checksums(folder, ignoring=(model_card.NAME,))
    about = _described(folder, config)
    architecture, arguments = architecture_of(printable(folder / CONFIG), config)
    state = files.read_tensors(folder / WEIGHTS)
    model = timm_model.create(
        printable(folder), architecture, arguments, state, head=about.facts.get("head"), num_classes=len(about.classes)
    )
    if broken := [name for name, tensor in state.items() if tensor.is_floating_point() and not is_finite(tensor)]:
        raise ArtefactError(f"{printable(folder / WEIGHTS)} holds NaN or infinity in {broken[0]}")
    return Bundle(about.path, about.classes, about.preprocessing, about.facts, model, evidence=about.evidence)


def read(path: Path) -> Stored:
    """Read the bundle at `path` (a run folder or a bundle) without torch, after checking all of its files.

    Raises:
        ArtefactError: it is missing, damaged, foreign or newer than this version.
    """
    folder = find(path)
    config = read_config(folder)
    own_graph = folder / GRAPH
    required = (GRAPH,) if own_graph.is_file() else ()
    files.verify_checksums(folder, required=(WEIGHTS, *required), ignoring=(model_card.NAME,))
    about = _described(folder, config)
    architecture, arguments = architecture_of(printable(folder / CONFIG), config)
    tensors = files.read_arrays(folder / WEIGHTS)
    if broken := [name for name, array in tensors.items() if not np.isfinite(array).all()]:
        raise ArtefactError(f"{printable(folder / WEIGHTS)} holds NaN or infinity in {broken[0]}")
    own = files.read_bytes(own_graph) if required else None
    classifier = about.facts.get("classifier") or (config.get("pretrained_cfg") or {}).get("classifier")
    graph = shipped.graph_for(architecture, arguments, about.preprocessing) if own is None else own
    known = isinstance(classifier, str) and any(name.startswith(f"{classifier}.") for name in tensors)
    return Stored(
        about.path,
        about.classes,
        about.preprocessing,
        about.facts,
        evidence=about.evidence,
        architecture=architecture,
        model_args=arguments,
        tensors=tensors,
        classifier=classifier if known else None,
        head=about.facts.get("head"),
        graph=graph if known else None,
    )


def describe(path: Path) -> Description:
    """Read what the bundle at `path` says about itself; its files are not checked, which `load` does.

    Raises:
        ArtefactError: it is missing, foreign, newer than this version, or says nothing sensible.
    """
    folder = find(path)
    return _described(folder, read_config(folder))


def _described(folder: Path, config: Mapping[str, Any]) -> Description:
    facts = config["cnn_tl"]
    classes = config.get("label_names")
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes) or len(set(classes)) < 2:
        raise ArtefactError(f"{printable(folder / CONFIG)} has no list of class names")
    if len(set(classes)) < len(classes):
        raise ArtefactError(f"{printable(folder / CONFIG)} names a class twice")
    return Description(
        path=folder,
        classes=tuple(classes),
        preprocessing=Preprocessing.from_dict(facts.get("preprocessing") or {}, printable(folder / CONFIG)),
        facts=facts,
        evidence=_evidence(folder, len(classes)),
    )


def _evidence(folder: Path, num_classes: int) -> Evidence | None:
    path = folder / EVIDENCE
    if not path.is_file():
        return None
    try:
        return Evidence.from_arrays(files.read_arrays(path), num_classes)
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ArtefactError(f"{printable(path)} cannot be used: {error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """Read config.json and check that this version of cnn-tl understands it."""
    config = files.read_json(folder / CONFIG)
    facts = config.get("cnn_tl") if isinstance(config, dict) else None
    if not isinstance(facts, dict) or "architecture" not in config:
        raise ArtefactError(f"{printable(folder)} was not made by cnn-tl: {CONFIG} lacks its keys")
    version = facts.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ArtefactError(f"{printable(folder / CONFIG)} has no format version")
    if version > FORMAT_VERSION:
        raise ArtefactError(
            f"{printable(folder)} was made by cnn-tl {facts.get('version', '?')} (format {version}; "
            f"this is {__version__}, format {FORMAT_VERSION}); upgrade cnn-tl to use it"
        )
    return config  # type: ignore[no-any-return]


_OF_CREATE_MODEL = frozenset(
    {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "num_classes"}
)
"""Arguments of `timm.create_model` that say where to load from, or are given elsewhere; none describes the model."""


def architecture_name(folder: Path) -> str:
    """Return timm's name of a bundle's network.

    Raises:
        ArtefactError: the bundle is foreign, or newer than this version.
    """
    return architecture_of(printable(folder / CONFIG), read_config(folder))[0]


def architecture_of(where: str, config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the architecture and the arguments of `timm.create_model` that describe it.

    Raises:
        ArtefactError: the name makes timm load from elsewhere, such as hf-hub:..., or the arguments are impossible.
    """
    architecture, arguments = config["architecture"], config.get("model_args") or {}
    if not isinstance(architecture, str) or ":" in architecture:
        raise ArtefactError(f"{where} names no timm model: {printable(str(architecture)[:80])}")
    if not isinstance(arguments, dict):
        raise ArtefactError(f"{where} is damaged: model_args is not a mapping")
    return architecture, {name: value for name, value in arguments.items() if name not in _OF_CREATE_MODEL}

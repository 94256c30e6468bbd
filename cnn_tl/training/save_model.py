"""Write the trained model as a bundle, and prove that a frozen backbone has not changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from cnn_tl.heads import FittedHead
from cnn_tl.networks import bundle
from cnn_tl.networks.info import tensors_digest
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.outcome import Outcome
from cnn_tl.training.result import TrainResult

Tensors = Mapping[str, NDArray[Any]]


def save_model(
    run: Run,
    dataset: Dataset,
    network: LazyNetwork,
    outcome: Outcome,
    result: TrainResult,
    backbone: Tensors | None = None,
) -> None:
    """Write the bundle of a finished run.

    Args:
        backbone: the tensors under a fitted head, from `verified_backbone`.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    manifest, info, head = dataset.manifest, network.info, outcome.head
    facts = {
        "mode": result.mode,
        "weights": info.weights,
        "seed": run.recipe.seed,
        "precision": run.recipe.run.precision,
        "validation": {"accuracy": result.accuracy, "images": result.images, "interval": result.interval},
        "thresholds": outcome.evidence.reliable if outcome.evidence else [],
        "baseline": {"accuracy": result.baseline, "class": result.baseline_class},
        "data": {"name": manifest.root.resolve().name, "images": manifest.counts()},
    }
    options: dict[str, Any] = {
        "classes": manifest.classes,
        "preprocessing": info.preprocessing,
        "facts": facts,
        "evidence": outcome.evidence,
    }
    if info.num_features:  # else the model does more after its features than its classifier
        options |= {"graph": network.remembered.graph, "classifier": info.classifier}
    if head is None:
        bundle.save_model(run.folder.bundle, network.model, **options)
        return
    assert backbone is not None, "a fitted head has a backbone"
    tensors = {**backbone, **_classifier_tensors(network, head)}
    bundle.save(run.folder.bundle, tensors, info.config, head=head.spec, **options)


def verified_backbone(run: Run, network: LazyNetwork) -> tuple[Tensors, str]:
    """Return the frozen backbone's parameters and buffers, and their digest.

    Raises:
        RuntimeError: a bug of ours: it is not the digest from before the run.
    """
    tensors = network.backbone_tensors(run.observer.note)
    after = tensors_digest(tensors) if network.is_built else network.info.backbone_sha256  # was checked when read
    if after != network.info.backbone_sha256:
        raise RuntimeError("a frozen tensor has changed")
    return tensors, after


def _classifier_tensors(network: LazyNetwork, head: FittedHead) -> Tensors:
    """Return the fitted head's tensors by their names in the model."""
    if head.spec is None:
        return network.info.classifier_tensors(head.tensors["weight"], head.tensors["bias"])
    return {f"{network.info.classifier}.{name}": array for name, array in head.tensors.items()}

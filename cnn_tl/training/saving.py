"""The trained model becomes a bundle; for a frozen backbone with the receipt that nothing in it moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from cnn_tl.core.errors import ArtefactError
from cnn_tl.core.statistics import softmax, thresholds
from cnn_tl.networks import bundle
from cnn_tl.networks.info import tensors_digest
from cnn_tl.training.context import Logits, Session
from cnn_tl.training.result import TrainResult

Tensors = Mapping[str, NDArray[Any]]


def save_model(session: Session, result: TrainResult, logits: Logits) -> None:
    """Write the bundle of a finished run.

    Args:
        logits: those of the validation images, [N, K].

    Raises:
        ResourceError: the disk is full or not writable.
    """
    folder, head, card = session.run.bundle, session.head, session.card
    classes, preprocessing = session.manifest.classes, card.preprocessing
    facts = {
        "mode": result.mode,
        "weights": card.weights,
        "seed": session.recipe.seed,
        "validation": {"accuracy": result.accuracy, "images": result.images, "interval": result.interval},
        "thresholds": thresholds(softmax(logits), session.manifest.labels("val")),
        "baseline": {"accuracy": result.baseline, "class": result.baseline_class},
        "data": {"name": session.manifest.root.resolve().name, "images": session.manifest.counts()},
    }
    if head is None:
        model = session.network.model
        bundle.save_model(folder, model, classes=classes, preprocessing=preprocessing, facts=facts)
        return
    bundle.save(
        folder, _fitted(session), card.config, classes=classes, preprocessing=preprocessing, facts=facts, head=head.spec
    )


def freeze_receipt(session: Session) -> str:
    """Return the digest of the frozen backbone's parameters and buffers as they are now: the same as before the run."""
    after = tensors_digest(_backbone(session))
    if after != session.card.backbone_sha256:
        raise RuntimeError("a frozen tensor moved")
    return after


def _fitted(session: Session) -> Tensors:
    """Return the frozen backbone's tensors and the fitted head's."""
    head, card = session.head, session.card
    assert head is not None
    if head.spec is None:
        own = card.classifier_tensors(head.tensors["weight"], head.tensors["bias"])
    else:
        own = {f"{card.classifier}.{name}": array for name, array in head.tensors.items()}
    return {**_backbone(session), **own}


def _backbone(session: Session) -> Tensors:
    """Return the backbone's tensors: those that ran, or where nothing had to run those that are remembered.

    Where those are lost meanwhile, the network is built after all.
    """
    if "network" not in vars(session):
        try:
            return session.remembered.tensors()
        except ArtefactError as error:
            session.observer.note(f"{error}; the network is built instead")
    from cnn_tl.networks.backbone import backbone_tensors

    return backbone_tensors(session.network.model)

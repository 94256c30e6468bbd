"""Mode `freeze`: the backbone stands still, so each picture passes it once and the head is fitted on the features."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from cnn_tl.data.manifest import Picture
from cnn_tl.networks import freeze
from cnn_tl.networks.backbone import classify, place, set_linear_classifier
from cnn_tl.runtime import Precision
from cnn_tl.training.features import FeatureStore, embed
from cnn_tl.training.heads import HEADS
from cnn_tl.training.session import Session


def train(session: Session) -> Tensor:
    """Fit the head that the recipe names; return the validation logits [N, K] of the finished model.

    Raises:
        DataError: too many broken pictures, or files that changed.
        DivergedError: the backbone's features are not finite.
        Stopped: a signal came; `--resume` goes on.
    """
    model = place(session.network.model, session.device).eval()
    freeze.apply(model, "head")
    before = freeze.frozen_digest(model)
    train_features, labels, val_features = _features(session, before)

    started = time.monotonic()
    settings = session.recipe.head
    head = HEADS[settings.kind](
        train_features,
        labels,
        len(session.manifest.classes),
        penalty=settings.penalty,
        seed=session.recipe.seed,
        check=session.raise_if_stopped,
    )
    if not head.facts.get("converged", True):
        session.observer.warn("the head was still improving when its fit ended; a larger head.penalty converges sooner")
    set_linear_classifier(model, head.weight, head.bias)
    session.facts["head"] = head.facts | {"seconds": round(time.monotonic() - started, 3)}

    after = freeze.frozen_digest(model)
    if after != before:
        raise RuntimeError("a frozen tensor moved")
    session.facts["frozen_sha256"] = after
    with torch.inference_mode():
        logits: Tensor = classify(model, val_features.to(session.device)).cpu()
    return logits


def _features(session: Session, frozen_sha256: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return training features [N, D], their labels [N] and the validation features [M, D], float32 on the CPU."""
    store = FeatureStore(session, frozen_sha256)
    train, val = session.manifest.of("train"), session.manifest.of("val")
    started = time.monotonic()
    with session.observer.task("features", len(train) + len(val)):
        train_read = embed(session, store, train, session.precision)
        val_read = embed(session, store, val, "fp32")
    seconds = time.monotonic() - started
    session.facts["images_per_second"] = round((len(train) + len(val)) / max(seconds, 1e-9), 1)

    def stacked(pictures: list[Picture], precision: Precision) -> Tensor:
        rows = [store.get(picture, precision) for picture in pictures]
        return torch.stack([row for row in rows if row is not None])

    labels = torch.tensor([picture.label for picture in train_read])
    return stacked(train_read, session.precision), labels, stacked(val_read, "fp32")

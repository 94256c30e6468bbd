"""The frozen part, run once for each picture: pictures in, features out.

Training pictures go through in the fastest number format that the device has; validation pictures in float32, so that
the accuracy reported is the one that predict gives, picture by picture.
"""

from __future__ import annotations

import shutil
import time

import torch
from torch import Tensor

from cnn_tl.data.manifest import Picture
from cnn_tl.errors import ArtefactError, Stopped
from cnn_tl.networks.backbone import to_input, without_classifier
from cnn_tl.runtime import Precision, autocast
from cnn_tl.training import checkpoint
from cnn_tl.training.session import Session, in_groups

SAVE_EVERY_SECONDS = 60.0


class FeatureStore:
    """The features so far, by (SHA-256 of the picture, number format); kept in the run folder until the run ends."""

    def __init__(self, session: Session, frozen_sha256: str) -> None:
        self._session = session
        self._frozen_sha256 = frozen_sha256
        self._rows: dict[str, Tensor] = {}
        self._saved = time.monotonic()
        try:
            found = checkpoint.load(session.run.features)
            if found.state["frozen_sha256"] == frozen_sha256:  # else the weights file is another one now
                self._rows = dict(found.tensors["features"])
        except (ArtefactError, KeyError) as error:
            if session.run.features.exists():
                session.observer.warn(f"{error}; the features are computed again")

    def get(self, picture: Picture, precision: Precision) -> Tensor | None:
        """Return the features [D] of a picture, or None."""
        return self._rows.get(f"{picture.sha256}.{precision}")

    def put(self, picture: Picture, precision: Precision, features_D: Tensor) -> None:
        """Keep the features of a picture; now and then everything so far is written."""
        self._rows[f"{picture.sha256}.{precision}"] = features_D
        if time.monotonic() - self._saved > SAVE_EVERY_SECONDS:
            self.save()

    def save(self) -> None:
        """Write everything so far."""
        state = {"frozen_sha256": self._frozen_sha256}
        shutil.rmtree(self._session.run.features, ignore_errors=True)
        checkpoint.save(self._session.run.features, checkpoint.Checkpoint({"features": self._rows}, state))
        self._saved = time.monotonic()


def embed(session: Session, store: FeatureStore, pictures: tuple[Picture, ...], precision: Precision) -> list[Picture]:
    """Put the features of `pictures` into the store and return the pictures that could be read.

    Broken ones leave the session's manifest. The model must be in evaluation mode on the session's device.

    Raises:
        Stopped: a signal came; what is done so far has been saved.
    """
    missing = [picture for picture in pictures if store.get(picture, precision) is None]
    session.observer.advance(len(pictures) - len(missing))
    broken = []
    try:
        with without_classifier(session.network.model), torch.inference_mode():
            for batch in session.read(in_groups(missing, session.batch_size)):
                broken += batch.failures
                if batch.items:
                    x_NCHW = to_input(batch.pixels, session.network.preprocessing, session.device)
                    with autocast(session.device, precision):
                        features_ND = session.network.model(x_NCHW)
                    for picture, row in zip(batch.items, features_ND.flatten(1).float().cpu(), strict=True):
                        store.put(picture, precision, row.clone())
                session.observer.advance(len(batch.items) + len(batch.failures))
    except Stopped:
        store.save()
        raise
    session.set_aside(broken)
    lost = {picture.path for picture, _ in broken}
    return [picture for picture in pictures if picture.path not in lost]

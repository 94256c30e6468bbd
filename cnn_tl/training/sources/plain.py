"""Validation images that stay on the device: each epoch would else read and copy the same pixels again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.loader import Batch
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.features.engine import DeviceBatch
from cnn_tl.networks.backbone import to_device
from cnn_tl.training.dataset import Dataset, refuse_failures
from cnn_tl.training.sources.tiers import most_on_device

SHARE = 0.1
"""Maximum share of the device's free memory."""

HOLDING = ("cuda", "mps")
"""Devices with memory of their own, or, in the case of MPS, of a format of their own."""

Groups = Sequence[Sequence[ImageRecord]]


class HeldImages:
    """The plain views of images, on the device after the first reading if there is room for them."""

    def __init__(self, dataset: Dataset, spec: Preprocessing, device: torch.device) -> None:
        self._dataset, self._spec, self._device = dataset, spec, device
        self._groups: Groups = []
        self._held: list[DeviceBatch[ImageRecord]] = []

    def read(self, groups: Groups) -> Iterator[Batch[ImageRecord] | DeviceBatch[ImageRecord]]:
        """Yield the images of each group as `predict` reads them.

        Raises (while it is iterated):
            DataError: an image changed since the run began.
            Stopped: a signal came.
        """
        if self._held and self._groups == groups:
            for one in self._held:
                self._dataset.run.raise_if_stopped()
                yield one
            return
        self._groups, self._held = [], []
        if not self._have_room(sum(map(len, groups))):
            yield from self._dataset.read_plain(groups)
            return
        held = []
        for batch in self._dataset.read_plain(groups):
            refuse_failures(batch)
            held.append(DeviceBatch(batch.items, to_device(batch.pixels, self._device)))
            yield held[-1]
        self._groups, self._held = groups, held

    def _have_room(self, images: int) -> bool:
        nbytes = 3 * self._spec.height * self._spec.width * images
        return self._device.type in HOLDING and nbytes <= most_on_device(self._device, self._dataset.run.world, SHARE)

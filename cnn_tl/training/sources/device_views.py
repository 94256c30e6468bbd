"""Views of training images that the device computes itself, from sources that are opened when first needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.loader import in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.data.views.augment import Finish, View
from cnn_tl.data.views.transforms import plain_box
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.outcome import SourceReads
from cnn_tl.training.sources.sources import Sources, open_sources
from cnn_tl.training.sources.tiers import draws_on_device, expected_tier, memory_bytes
from cnn_tl.training.views.random_views import RandomViews

Item = TypeVar("Item")

LEAST_BYTES, MOST_BYTES = 8 * 10**6, 96 * 10**6
"""Limits of the size of sources that are read and copied at once; a larger step is read in parts."""


class DeviceViews:
    """Views of the training images of a run.

    Args:
        spec: preprocessing for evaluation.
        device: of the run, which draws views; see `tiers.draws_on_device`.
    """

    def __init__(self, dataset: Dataset, spec: Preprocessing, device: torch.device) -> None:
        self._dataset, self._spec, self._device = dataset, spec, device

    @property
    def reads(self) -> SourceReads | None:
        """Where the sources lie; None: no view has been needed yet."""
        opened: Sources | None = vars(self).get("sources")
        return None if opened is None else opened.reads

    @cached_property
    def sources(self) -> Sources:
        """The sources; the first use loads them."""
        return open_sources(self._dataset, self._dataset.manifest.of("train"), self._device)

    def expect_room_on_device(self) -> bool:
        """Return whether the sources will probably lie in the device's memory."""
        run, images = self._dataset.run, self._dataset.images
        nbytes = images.expected_source_bytes(self._dataset.manifest.of("train"))
        return expected_tier(run, images, nbytes, self._device) == "device"

    def open(self) -> None:
        """Load the sources now, if they are not loaded yet.

        Raises:
            The errors of `open_sources`.
        """
        _ = self.sources

    def of(
        self,
        groups: Sequence[Sequence[Item]],
        image_of: Callable[[Item], ImageRecord],
        draw: Callable[[Item, int, int], View],
    ) -> Iterator[Tensor]:
        """Yield the views of each group, uint8 [N, H, W, 3] on the device.

        Args:
            draw: returns the view of an item whose source has this width and height, in pixels.

        Raises (while it is iterated):
            DataError: an image changed since the run began.
            Stopped: a signal came.
        """
        parts = [in_groups(group, self._at_once) for group in groups]
        images = [[image_of(item) for item in part] for part in chain.from_iterable(parts)]
        with self.sources.steps(images) as steps:
            for group in parts:
                self._dataset.run.raise_if_stopped()
                views = []
                for part, loaded in zip(group, steps, strict=False):
                    sizes = zip(part, loaded.sizes, strict=True)
                    views.append(
                        self._views(loaded.batch, [draw(item, width, height) for item, (height, width) in sizes])
                    )
                    loaded.release()
                yield views[0] if len(views) == 1 else torch.cat(views)

    def unvaried(self, groups: Sequence[Sequence[ImageRecord]]) -> Iterator[Tensor]:
        """Yield images without augmentation, as `ImageStore.unvaried` does but for rounding; see `of`.

        The preprocessing must not add a border (`has_unvaried`).
        """
        return self.of(groups, lambda image: image, self._unvaried)

    @property
    def has_unvaried(self) -> bool:
        """Whether the device can compute images without augmentation: they are parts of their sources."""
        return self._spec.crop_mode == "center"

    @cached_property
    def _at_once(self) -> int:
        """Number of sources that are read and copied at once: about ten times as many are in memory at a time."""
        side = self._dataset.images.source_side
        assert side is not None, "views are drawn only with augmentation"
        nbytes = min(max(memory_bytes(self._dataset.run) // 10, LEAST_BYTES), MOST_BYTES)
        return max(1, nbytes // (3 * side * side))

    @cached_property
    def _views(self) -> RandomViews:
        settings = self._dataset.run.augmentation
        assert settings is not None, "views are drawn only with augmentation"
        return RandomViews(self._spec, settings, self._device)

    def _unvaried(self, image: ImageRecord, width: int, height: int) -> View:
        box = plain_box(width, height, self._spec)
        assert box is not None, "a centre crop has no border"
        return View(box, False, [], Finish(None, None))


def open_views(dataset: Dataset, spec: Preprocessing, device: torch.device) -> DeviceViews | None:
    """Return the views of a run on its device; None if threads draw them, or there are none."""
    return DeviceViews(dataset, spec, device) if draws_on_device(dataset.run, device) else None

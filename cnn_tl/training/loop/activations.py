"""Cache the activations at the end of the frozen part of a network, computed once for each view of an image.

They are exactly what the network computes in the same precision, so a step that starts from them gives the same result
as a step that starts from the image, without the cost of the frozen part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cnn_tl.cache.store import FeatureCache
from cnn_tl.core.device import Precision, autocast
from cnn_tl.core.formatting import counted, readable_bytes
from cnn_tl.data.loader import in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.features.cache_keys import row_key, space_facts
from cnn_tl.features.devices import hardware_of, noise
from cnn_tl.networks.backbone import normalised, to_input
from cnn_tl.networks.split_point import SplitModel, split
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.context import Run, open_cache
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.outcome import ActivationReads
from cnn_tl.training.sources.tiers import draws_on_device

Read = Callable[[Sequence[Sequence[ImageRecord]]], Iterator[Tensor]]
"""Groups of images -> their pixels on the device, uint8 [N, H, W, 3], in the view of the current epoch."""

AT_ONCE = 32
"""Images in one forward pass of the frozen part. Smaller groups are padded: another number may change the last bit, and
after a resume the groups differ."""


class Activations:
    """The activations of a run's training images.

    Args:
        precision: of the training steps.
        found: the network, split into its frozen part and the rest.
        cache: stores the activations.

    Attributes:
        keeps: whether they are cached; otherwise they are computed in each epoch, with the same bits.
    """

    def __init__(
        self,
        dataset: Dataset[LoopRecipe],
        network: LazyNetwork,
        precision: Precision,
        found: SplitModel,
        cache: FeatureCache,
    ) -> None:
        self.split, self.keeps = found, True
        self._run, self._dataset, self._network, self._precision = dataset.run, dataset, network, precision
        order = "NHWC" if found.channels_last else "as named"
        facts = space_facts(
            network.info,
            precision=precision,
            device=network.device.type,
            hardware=hardware_of(network.device),
            split_point=found.split_point,
        )
        self.why_not = cache.why_not
        facts |= {"order": order}
        if draws_on_device(dataset.run, network.device):
            facts |= {"views": "by the device"}  # their pixels differ from Pillow's by rounding
        self._space = cache.space(facts, shape=_row_shape(found), dtype=_name(found.dtype))

    @property
    def row_bytes(self) -> int:
        """Size of the activations of one image in bytes."""
        return self._space.row.nbytes

    def missing(self, images: Sequence[ImageRecord], view: int) -> list[ImageRecord]:
        """Return the images whose activations of this view are not cached; copies of an image count once."""
        wanted = {self._key(image, view): image for image in images}
        distinct = list(wanted.values())
        return [distinct[index] for index in self._space.missing(list(wanted))]

    def lacking(self, images: Sequence[ImageRecord], views: int) -> int:
        """Return the size in bytes of the missing activations of the first `views` views."""
        return self.row_bytes * sum(len(self.missing(images, view)) for view in range(views))

    def fill(self, images: Sequence[ImageRecord], view: int, read: Read) -> bool:
        """Compute this process's share of the missing activations of a view; return whether all could be cached.

        It waits for all processes; then each finds the activations that the others have cached.

        Raises:
            Stopped: a signal came; the activations computed so far are cached.
            And the errors of `read`.
        """
        with self._run.world.together():
            kept = self._fill_share(images, view, read)
        self._space.refresh()
        return kept

    def _fill_share(self, images: Sequence[ImageRecord], view: int, read: Read) -> bool:
        world = self._run.world
        lacking = [image for image in self.missing(images, view) if world.owns_locally(image.sha256)]
        if not lacking:
            return True
        observer, kept = self._run.observer, True
        with observer.task(f"activations, view {view}", len(lacking)), self._space.writer() as writer:
            for image, row in self._computed(lacking, read):
                kept = writer.add(self._key(image, view), row)
                if not kept:
                    break
                observer.advance(1)
        return kept

    def rows(self, groups: Sequence[Sequence[ImageRecord]], view: int, read: Read) -> Iterator[Tensor]:
        """Yield the activations [N, *shape] of each group, on the device."""
        if self.keeps:
            yield from (self.read(group, view, read) for group in groups)
            return
        computed = self._computed(list(chain.from_iterable(groups)), read)
        for group in groups:
            yield self._on_device(np.stack([row for _, row in islice(computed, len(group))]))

    def read(self, images: Sequence[ImageRecord], view: int, read: Read) -> Tensor:
        """Return the activations [N, *shape] on the device; damaged or lost rows are computed again."""
        rows, lacking = self._space.gather([self._key(image, view) for image in images])
        if lacking:
            again = self._computed([images[index] for index in lacking], read)
            for index, (_, row) in zip(lacking, again, strict=True):
                rows[index] = row
        return self._on_device(rows)

    def _on_device(self, rows: NDArray[Any]) -> Tensor:
        # a bf16 row is stored as uint16, which torch hardly supports
        bits = rows.view(np.int16) if self.split.dtype == torch.bfloat16 else rows
        kept = torch.from_numpy(bits).view(self.split.dtype)
        if self._network.device.type == "cuda":
            kept = kept.pin_memory()
        kept = kept.to(self._network.device, non_blocking=True)
        return kept.permute(0, 3, 1, 2) if self.split.channels_last else kept

    def _computed(self, images: Sequence[ImageRecord], read: Read) -> Iterator[tuple[ImageRecord, NDArray[Any]]]:
        """Compute the activations of images; yield each image with its row."""
        groups = in_groups(images, AT_ONCE)
        for group, pixels_NHW3 in zip(groups, read(groups), strict=True):
            yield from zip(group, self._rows(pixels_NHW3), strict=True)

    def _rows(self, pixels_NHW3: Tensor) -> NDArray[Any]:
        network, count = self._network, len(pixels_NHW3)
        if count < AT_ONCE:
            pixels_NHW3 = torch.cat([pixels_NHW3, pixels_NHW3[:1].expand(AT_ONCE - count, -1, -1, -1)])
        x_NCHW = normalised(pixels_NHW3, network.info.preprocessing)
        with _in_eval_mode(network.model), autocast(network.device, self._precision):
            kept = self.split.prefix(x_NCHW)[:count]
        if self.split.channels_last:
            kept = kept.permute(0, 2, 3, 1)
        kept = kept.contiguous().cpu()
        return kept.view(torch.int16).numpy().view(np.uint16) if kept.dtype == torch.bfloat16 else kept.numpy()

    def _key(self, image: ImageRecord, view: int) -> bytes:
        side = self._dataset.images.source_side
        return row_key(image.sha256, view, self._run.recipe.seed, self._run.augmentation, side)


@contextmanager
def _in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode inside the body, and restore the modes, as training continues afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def open_activations(
    dataset: Dataset[LoopRecipe],
    network: LazyNetwork,
    images: Sequence[ImageRecord],
    epochs: int,
    precision: Precision,
    *,
    gradual: bool = False,
) -> tuple[Activations | None, ActivationReads | None]:
    """Decide whether activations are cached or computed in each epoch; report which, and why.

    The network must be on its device, with its parameters frozen.

    Args:
        gradual: more of the network trains in a later epoch, which moves the split point.

    Returns:
        (None, None) if nothing is frozen. The activations are None if steps start from images, because the same
        activations would never be used twice or the network cannot be split.
    """
    if all(parameter.requires_grad for parameter in network.model.parameters()):
        return None, None
    run, views = dataset.run, dataset.run.recipe.features.views
    reason, found = None, None
    if gradual:
        reason = "model.unfreeze moves its end"
    elif not isinstance(views, int):
        reason = "features.views is fresh"
    elif isinstance(halves := _split(network, precision), str):
        reason = f"{network.info.name} cannot be split: {halves}"
    else:
        wanted = min(views, epochs)
        found = Activations(dataset, network, precision, halves, open_cache(run))
        lacking = found.lacking(images, wanted)
        refusals = run.world.gather(found.why_not(lacking) if lacking else None)
        reason = next(filter(None, refusals), None)
    if found is not None and reason is None:
        return found, _report_size(run, found, len(images), wanted, lacking)
    run.observer.note(f"the frozen part is computed in each epoch: {reason}")
    if found is not None:
        found.keeps = False
    return found, ActivationReads(kept=False, reason=reason)


def _report_size(run: Run, found: Activations, images: int, views: int, lacking: int) -> ActivationReads:
    total, boundary = found.row_bytes * views * images, found.split.split_point
    run.observer.note(
        f"the activations at {boundary} are kept: {counted(views, 'view')} of "
        f"{counted(images, 'image')}, {readable_bytes(total)}; {readable_bytes(total - lacking)} are cached already"
    )
    return ActivationReads(kept=True, boundary=boundary, views=views, bytes=total)


def _split(network: LazyNetwork, precision: Precision) -> SplitModel | str:
    """Split the network, run in the precision of the training steps; return the reason if it cannot be split."""
    x_NCHW = to_input(noise(network.info.preprocessing, 3), network.info.preprocessing, network.device)
    with autocast(network.device, precision):
        return split(network.model, x_NCHW)


def _row_shape(found: SplitModel) -> tuple[int, ...]:
    """Return the shape of a row in memory order."""
    if not found.channels_last:
        return found.shape
    channels, height, width = found.shape
    return height, width, channels


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

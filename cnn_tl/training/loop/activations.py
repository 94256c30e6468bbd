"""The activations where the frozen part of a network ends: computed once for each view of an image, kept, read back.

What is kept are the numbers that the network itself would hand over in the same precision, so a step that begins
with them is the step that begins with the image, less the frozen part of its forward pass.
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
from cnn_tl.core.device import autocast
from cnn_tl.core.formatting import counted, readable_bytes
from cnn_tl.data.loader import Batch, in_groups
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.features.cache_keys import row_key, space_facts
from cnn_tl.features.speed import hardware_of, noise
from cnn_tl.networks.backbone import to_input
from cnn_tl.networks.split_point import SplitModel, split
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.context import Session
from cnn_tl.training.store import open_cache

Read = Callable[[Sequence[Sequence[ImageRecord]]], Iterator[Batch[ImageRecord]]]
"""Groups of images -> batches of their pixels, each image in the view that is wanted."""

AT_ONCE = 32
"""Images that pass the frozen part together, always so many, kept or not: another number may give another last bit,
and after an interruption the groups are others."""


class Boundary:
    """The activations of a run's training images.

    Attributes:
        cut: the network in two parts.
        keeps: whether they are kept; else they are computed in each epoch, the same to the bit.
    """

    def __init__(self, session: Session[LoopRecipe], found: SplitModel, cache: FeatureCache) -> None:
        self.cut, self.keeps = found, True
        self._session = session
        order = "NHWC" if found.channels_last else "as named"
        facts = space_facts(
            session.card,
            precision=session.precision,
            device=session.device.type,
            hardware=hardware_of(session.device),
            boundary=found.split_point,
        )
        self.why_not = cache.why_not
        self._space = cache.space(facts | {"order": order}, shape=_row_shape(found), dtype=_name(found.dtype))

    @property
    def row_bytes(self) -> int:
        """What the activations of one image take."""
        return self._space.row.nbytes

    def missing(self, images: Sequence[ImageRecord], view: int) -> list[ImageRecord]:
        """Return the images of which the cache does not have this view; two of the same content count once."""
        wanted = {self._key(image, view): image for image in images}
        distinct = list(wanted.values())
        return [distinct[index] for index in self._space.missing(list(wanted))]

    def lacking(self, images: Sequence[ImageRecord], views: int) -> int:
        """Return how many bytes the cache lacks of the first `views` views."""
        return self.row_bytes * sum(len(self.missing(images, view)) for view in range(views))

    def fill(self, images: Sequence[ImageRecord], view: int, read: Read) -> bool:
        """Compute this process's share of what the cache lacks of a view; return whether it could all be kept.

        It returns when all processes have done theirs, and `read` then finds what each has kept.

        Raises:
            Stopped: a signal came; what is done so far is kept. And what `read` raises.
        """
        with self._session.world.together():
            kept = self._fill_share(images, view, read)
        self._space.refresh()
        return kept

    def _fill_share(self, images: Sequence[ImageRecord], view: int, read: Read) -> bool:
        world = self._session.world
        lacking = [image for image in self.missing(images, view) if world.owns_locally(image.sha256)]
        if not lacking:
            return True
        observer, kept = self._session.observer, True
        with observer.task(f"activations, view {view}", len(lacking)), self._space.writer() as writer:
            for image, row in self._computed(lacking, read):
                kept = writer.add(self._key(image, view), row)
                if not kept:
                    break
                observer.advance(1)
        return kept

    def rows(self, parts: Sequence[Sequence[ImageRecord]], view: int, read: Read) -> Iterator[Tensor]:
        """Yield the activations [N, *shape] of each part, on the device."""
        if self.keeps:
            yield from (self.read(part, view, read) for part in parts)
            return
        computed = self._computed(list(chain.from_iterable(parts)), read)
        for part in parts:
            yield self._on_device(np.stack([row for _, row in islice(computed, len(part))]))

    def read(self, images: Sequence[ImageRecord], view: int, read: Read) -> Tensor:
        """Return the activations [N, *shape] on the device; what is damaged or gone is computed again."""
        rows, lacking = self._space.gather([self._key(image, view) for image in images])
        if lacking:
            again = self._computed([images[index] for index in lacking], read)
            for index, (_, row) in zip(lacking, again, strict=True):
                rows[index] = row
        return self._on_device(rows)

    def _on_device(self, rows: NDArray[Any]) -> Tensor:
        # the bits of a bf16 row are in uint16, of which torch knows next to nothing
        bits = rows.view(np.int16) if self.cut.dtype == torch.bfloat16 else rows
        kept = torch.from_numpy(bits).view(self.cut.dtype)
        if self._session.device.type == "cuda":
            kept = kept.pin_memory()
        kept = kept.to(self._session.device, non_blocking=True)
        return kept.permute(0, 3, 1, 2) if self.cut.channels_last else kept

    def _computed(self, images: Sequence[ImageRecord], read: Read) -> Iterator[tuple[ImageRecord, NDArray[Any]]]:
        """Send images through the frozen part and yield each with its row."""
        for batch in read(in_groups(images, AT_ONCE)):
            yield from zip(batch.items, self._rows(batch), strict=True)

    def _rows(self, batch: Batch[ImageRecord]) -> NDArray[Any]:
        session, count = self._session, len(batch.items)
        pixels = np.concatenate([batch.pixels, np.repeat(batch.pixels[:1], AT_ONCE - count, axis=0)])
        x_NCHW = to_input(pixels, session.card.preprocessing, session.device)
        with _evaluating(session.network.model), autocast(session.device, session.precision):
            kept = self.cut.prefix(x_NCHW)[:count]
        if self.cut.channels_last:
            kept = kept.permute(0, 2, 3, 1)
        kept = kept.contiguous().cpu()
        return kept.view(torch.int16).numpy().view(np.uint16) if kept.dtype == torch.bfloat16 else kept.numpy()

    def _key(self, image: ImageRecord, view: int) -> bytes:
        session = self._session
        return row_key(image.sha256, view, session.recipe.seed, session.augmentation, session.images.source_side)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in evaluation mode inside the body; training goes on between two batches of the frozen part."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def open_boundary(
    session: Session[LoopRecipe], images: Sequence[ImageRecord], epochs: int, *, gradual: bool = False
) -> Boundary | None:
    """Decide whether activations are kept or computed anew in each epoch; say which and why.

    `session.network` is frozen and on its device.

    Args:
        gradual: more of it will train later, which moves the boundary.

    Returns:
        None where a step begins with the image: nothing is frozen, or the frozen part gives nothing twice.
    """
    if all(parameter.requires_grad for parameter in session.network.model.parameters()):
        return None
    views = session.recipe.features.views
    reason, found = None, None
    if gradual:
        reason = "model.unfreeze moves its end"
    elif views == "fresh":
        reason = "features.views is fresh"
    elif isinstance(cutting := _cut(session), str):
        reason = f"{session.card.name} cannot be cut in two: {cutting}"
    else:
        assert isinstance(views, int)
        wanted = min(views, epochs)
        found = Boundary(session, cutting, open_cache(session.recipe, session.run, session.observer))
        lacking = found.lacking(images, wanted)
        room = session.world.gather(found.why_not(lacking) if lacking else None)
        reason = next(filter(None, room), None)
    if found is not None and reason is None:
        _tell_of_what_is_kept(session, found, len(images), wanted, lacking)
        return found
    session.observer.note(f"the frozen part is computed anew in each epoch: {reason}")
    session.facts["activations"] = {"kept": False, "reason": reason}
    if found is not None:
        found.keeps = False
    return found


def _tell_of_what_is_kept(session: Session[LoopRecipe], found: Boundary, images: int, views: int, lacking: int) -> None:
    total, boundary = found.row_bytes * views * images, found.cut.split_point
    session.observer.note(
        f"the activations at {boundary} are kept: {counted(views, 'view')} of "
        f"{counted(images, 'image')}, {readable_bytes(total)}; {readable_bytes(total - lacking)} are at hand"
    )
    session.facts["activations"] = {"kept": True, "boundary": boundary, "views": views, "bytes": total}


def _cut(session: Session[LoopRecipe]) -> SplitModel | str:
    """Split the network in the precision of the training steps."""
    x_NCHW = to_input(noise(session.network, 3), session.card.preprocessing, session.device)
    with autocast(session.device, session.precision):
        return split(session.network.model, x_NCHW)


def _row_shape(found: SplitModel) -> tuple[int, ...]:
    """Return the shape of a row, in the order in which it lies in memory."""
    if not found.channels_last:
        return found.shape
    channels, height, width = found.shape
    return height, width, channels


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

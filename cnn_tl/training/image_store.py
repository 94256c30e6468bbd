"""The pixels of a run's images: each file is decoded once, and the result is cached.

An image may be cached in two forms: the plain view, which evaluation uses, and the source, from which random views are
cropped. Both are pure functions of the file (data/views/transforms.py, data/views/image_source.py), so training gives
the same result whether an image came from the cache, from memory or from its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cnn_tl.cache.multi_shape import Add, MemoryBudget, MultiShapeSpace
from cnn_tl.cache.space import Space
from cnn_tl.cache.store import FeatureCache
from cnn_tl.core.errors import BadImageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.decoding.image import probe
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.data.reading.jobs import ImageFile, Job, PlainPixels, SourceRow
from cnn_tl.data.views import image_source, transforms
from cnn_tl.data.views.augment import Augmentation, augment
from cnn_tl.features.cache_keys import plain_facts, source_facts
from cnn_tl.training.context import GB, Run, open_cache

Pixels = NDArray[np.uint8]
Kind = Literal["plain", "source"]
Form = tuple[ImageRecord, Kind]
Lacking = dict[ImageRecord, tuple[Kind, ...]]

PROBED = 64
"""Number of images whose size is read to estimate the bytes of all."""


class ImageStore:
    """The pixels of images, cached for this run and later ones.

    Many threads may call `plain`, `augmented` and `unvaried` at once, but not together with any other method.

    Args:
        spec: preprocessing for evaluation.
        settings: augmentation of training images; None: training uses the plain view.
        file_of: image -> its file, which is checked to be the scanned one before it is read.
        spaces: the caches of each form; None: nothing is cached.
        memory: for images that the cache could not store, and for other copies of them; by default none.
        plain_training: whether some epoch uses the plain view of training images.

    Attributes:
        source_side: side of the sources in pixels; None if no random views are cropped.
        refusals: why the cache did not store something, as messages; filled by the cache.
        blank: blank images found while decoding: path in the manifest -> kind, a key of `blank_images.WARNINGS`.
    """

    def __init__(
        self,
        spec: Preprocessing,
        settings: Augmentation | None,
        file_of: Callable[[ImageRecord], ImageFile],
        spaces: Mapping[Kind, MultiShapeSpace] | None = None,
        *,
        memory: MemoryBudget | None = None,
        plain_training: bool = True,
        refusals: Sequence[str] = (),
    ) -> None:
        self.source_side = image_source.source_side(spec, settings) if settings else None
        self.memory = memory or MemoryBudget(0)
        self.refusals = refusals
        self.blank: dict[str, str] = {}
        self._spec, self._settings, self._file_of = spec, settings, file_of
        self._spaces, self._plain_training = spaces, plain_training
        self._decoded: dict[str, Pixels] | None = None

    @property
    def are_kept(self) -> bool:
        """Whether images are cached at all."""
        return self._spaces is not None

    def plain(self, image: ImageRecord) -> Pixels:
        """Return an image as `predict` reads it, uint8 [H, W, 3].

        Raises:
            BadImageError: it is not cached, and its file cannot be read.
            DataError: it is not cached, and its file is not the one that was scanned.
        """
        return self._row("plain", image)

    def augmented(self, image: ImageRecord, seed: int) -> Pixels:
        """Return the random view of an image that `seed` draws, uint8 [H, W, 3], cropped from its source.

        Raises:
            BadImageError, DataError: as `plain` does.
        """
        assert self._settings is not None, "the recipe asks for augmented views"
        decoded = image_source.unpack(self._row("source", image))
        return augment(decoded, self._spec, self._settings, seed)

    def source(self, image: ImageRecord) -> Pixels:
        """Return the source of a training image, uint8 [H, W, 3].

        Raises:
            BadImageError, DataError: as `plain` does.
        """
        held = (self._decoded or {}).get(image.sha256)
        return image_source.pixels_of(self._row("source", image) if held is None else held)

    def decoded_source(self, image: ImageRecord) -> Pixels:
        """Return the same from the image's file, even if it is cached."""
        return image_source.pixels_of(self.decode(image, "source"))

    def unvaried(self, image: ImageRecord) -> Pixels:
        """Return a training image without augmentation, uint8 [H, W, 3], from its source if it has one.

        Raises:
            BadImageError, DataError: as `plain` does.
        """
        if self.source_side is None:
            return self.plain(image)
        return transforms.resize_and_crop(image_source.unpack(self._row("source", image)), self._spec)

    def lacking(self, images: Iterable[ImageRecord]) -> Lacking:
        """Return the images that must be decoded, each with the forms that are not cached."""
        if self._spaces is None:
            return dict.fromkeys(images, ("plain",))
        wanted = {image: self._kinds(image) for image in images}
        missing = {
            kind: space.missing(_key(image) for image, kinds in wanted.items() if kind in kinds)
            for kind, space in self._spaces.items()
        }
        found = {p: tuple(kind for kind in kinds if _key(p) in missing[kind]) for p, kinds in wanted.items()}
        return {image: kinds for image, kinds in found.items() if kinds}

    def lacking_sources(self, images: Iterable[ImageRecord]) -> set[ImageRecord]:
        """Return the training images whose source must be decoded."""
        if self._spaces is None:
            return set(images)
        return {image for image, kinds in self.lacking(images).items() if "source" in kinds}

    def expected_bytes(self, lacking: Lacking) -> int:
        """Estimate how many bytes the images will take, from the sizes of a sample."""
        plain = sum("plain" in kinds for kinds in lacking.values())
        cropped = [image for image, kinds in lacking.items() if "source" in kinds]
        sample = [self._source_bytes(image) for image in cropped[:: max(1, len(cropped) // PROBED)]]
        each = sum(sample) / len(sample) if sample else 0
        return plain * 3 * self._spec.height * self._spec.width + round(len(cropped) * each)

    def expected_source_bytes(self, images: Sequence[ImageRecord]) -> int:
        """Estimate how many bytes the pixels of the images' sources take, from the sizes of a sample."""
        sample = [self._source_pixels(image) for image in images[:: max(1, len(images) // PROBED)]]
        return 3 * -(-len(images) * sum(sample) // len(sample))

    def in_memory(self, images: Sequence[ImageRecord]) -> int:
        """Return how many of the images are held in memory because the cache could not store them."""
        spaces = (self._spaces or {}).values()
        return sum(any(space.holds(_key(image)) for space in spaces) for image in images)

    @contextmanager
    def holding_decoded(self, wanted: bool) -> Iterator[None]:
        """Hold the sources that `keeper` is given in memory during the block, as far as the budget allows.

        Who reads them all in the block need not look for them in the cache, where they are too.
        """
        self._decoded = {} if wanted else None
        try:
            yield
        finally:
            for row in (self._decoded or {}).values():
                self.memory.take(-row.nbytes)
            self._decoded = None

    def _hold_decoded(self, image: ImageRecord, row: Pixels) -> None:
        held = self._decoded
        if held is not None and image.sha256 not in held and self.memory.take(row.nbytes):
            held[image.sha256] = row

    @contextmanager
    def keeper(self, *, write: bool) -> Iterator[Keeper]:
        """Yield a `Keeper`; its images are written at the end, even after an exception.

        Args:
            write: False caches nothing.
        """
        with ExitStack() as stack:
            spaces = (self._spaces or {}) if write else {}
            yield Keeper(
                self._hold_decoded, {kind: stack.enter_context(space.writer()) for kind, space in spaces.items()}
            )

    def write_held(self) -> None:
        """Cache the images that had to be decoded again because their rows were lost or damaged."""
        for space in (self._spaces or {}).values():
            space.write_held()

    def decode(self, image: ImageRecord, kind: Kind) -> Pixels:
        """Read an image's file and return one form of it: plain [H, W, 3], or the source as a row [bytes].

        Raises:
            BadImageError, DataError: as `plain` does.
        """
        decoded = self.job(image, kind).run()
        if decoded.blank:
            self.blank[image.path] = decoded.blank
        return decoded.pixels

    def job(self, image: ImageRecord, kind: Kind) -> Job:
        """Return what `decode` does as a job, which another process can run."""
        file = self._file_of(image)
        if kind == "plain":
            return PlainPixels(file, self._spec)
        assert self.source_side is not None, "only random views are cropped from a source"
        return SourceRow(file, self._spec, self.source_side)

    def _row(self, kind: Kind, image: ImageRecord) -> Pixels:
        if self._spaces is None or kind not in self._kinds(image):
            return self.decode(image, kind)
        space = self._spaces[kind]
        row = space.fetch(_key(image))
        if row is None:
            row = self.decode(image, kind)
            space.hold(_key(image), row)
        return row

    def _kinds(self, image: ImageRecord) -> tuple[Kind, ...]:
        """Return the forms of an image that the run uses."""
        if image.split != "train" or self._settings is None:
            return ("plain",)
        return ("plain", "source") if self._plain_training else ("source",)

    def _source_bytes(self, image: ImageRecord) -> int:
        assert self.source_side is not None
        try:
            facts = probe(self._file_of(image).checked(), self._spec)
        except BadImageError:
            return 0
        return image_source.row_bytes(image_source.row_side(facts.width, facts.height, self.source_side))

    def _source_pixels(self, image: ImageRecord) -> int:
        """Return the number of pixels of an image's source, or slightly more."""
        assert self.source_side is not None
        try:
            facts = probe(self._file_of(image).checked(), self._spec)
        except BadImageError:
            return 0
        return min(facts.width * facts.height, self.source_side**2)


class Keeper:
    """Writes decoded images to the cache."""

    def __init__(self, hold: Callable[[ImageRecord, Pixels], None], add: Mapping[Kind, Add]) -> None:
        self._hold, self._add = hold, add

    def keep(self, forms: Sequence[Form], rows: Iterable[Pixels]) -> None:
        """Write the pixels of some forms of images."""
        if self._add:
            for (image, kind), row in zip(forms, rows, strict=True):
                self._add[kind](_key(image), row)
                if kind == "source":
                    self._hold(image, row)


def open_images(run: Run, spec: Preprocessing, file_of: Callable[[ImageRecord], ImageFile]) -> ImageStore:
    """Open the image store of a run; it caches nothing in mode `freeze` or with `data.keep_images: false`."""
    recipe, settings = run.recipe, run.augmentation
    # the processes of a machine share the memory
    memory = MemoryBudget(int(recipe.data.memory_gb * GB) // run.world.local_size)
    if recipe.mode == "freeze" or not recipe.data.keep_images:
        return ImageStore(spec, settings, file_of, memory=memory)
    refusals: list[str] = []
    cache = open_cache(run, holds="image", note=refusals.append)
    plain = cache.space(plain_facts(spec), shape=(spec.height, spec.width, 3), dtype="uint8")
    spaces: dict[Kind, MultiShapeSpace] = {"plain": MultiShapeSpace([plain], memory)}
    if settings is not None:
        spaces["source"] = MultiShapeSpace(_source_spaces(cache, image_source.source_side(spec, settings)), memory)
    plain_training = isinstance(recipe.features.views, int)
    return ImageStore(spec, settings, file_of, spaces, memory=memory, plain_training=plain_training, refusals=refusals)


def _source_spaces(cache: FeatureCache, side: int) -> list[Space]:
    return [
        cache.space(source_facts(side, row_side), shape=(image_source.row_bytes(row_side),), dtype="uint8")
        for row_side in image_source.row_sides(side)
    ]


def _key(image: ImageRecord) -> bytes:
    return bytes.fromhex(image.sha256)

"""The pixels of a run's pictures: each file is decoded once, and what comes of it is kept.

Two things of an image may be cached: the plain view, which evaluation sees, and the source that random views are
cropped from. Both are pure functions of the file (data/views/transforms.py, data/views/source.py), so training gives
the same result whether an image came from the cache, from memory or from its file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cnn_tl.cache.columns import Add, Memory, Shelf
from cnn_tl.cache.space import Space
from cnn_tl.cache.store import FeatureCache
from cnn_tl.core.errors import BadImageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.progress import Observer
from cnn_tl.data.blank_images import Looks
from cnn_tl.data.decoding.image import ImageLimits, probe
from cnn_tl.data.manifest import Picture
from cnn_tl.data.views import source, transforms
from cnn_tl.data.views.augment import Augmentation, augment
from cnn_tl.features.cache_keys import plain_facts, source_facts
from cnn_tl.recipe import Recipe
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.store import GB, open_cache

Pixels = NDArray[np.uint8]
Kind = Literal["plain", "source"]
Lacking = dict[Picture, tuple[Kind, ...]]

PROBED = 64
"""Pictures whose size is looked up in order to say what all of them will take."""

_NOTHING: Pixels = np.empty((0, 0, 3), np.uint8)


class Pictures:
    """The pixels of pictures; what is kept of them is found again by every later run.

    `plain`, `augmented` and `unvaried` may be called by many threads, while nothing else is called.

    Args:
        spec: how evaluation sees a picture. settings: how training does; None: as evaluation.
        file_of: a picture -> its file, which is the one that was scanned.
        shelves: where pictures are kept; None: they are not.
        plain_training: whether some epoch sees the training pictures as evaluation does.

    Attributes:
        source_side: of the sources, in pixels; None where no random views are cut.
        refusals: why the cache did not take something, in whole sentences; filled by the cache.
        looks: the images that were decoded and show nothing.
    """

    def __init__(
        self,
        spec: Preprocessing,
        settings: Augmentation | None,
        file_of: Callable[[Picture], Path],
        shelves: Mapping[Kind, Shelf] | None = None,
        *,
        plain_training: bool = True,
        refusals: Sequence[str] = (),
    ) -> None:
        self.source_side = source.source_side(spec, settings) if settings else None
        self.refusals = refusals
        self.looks = Looks()
        self._spec, self._settings, self._file_of = spec, settings, file_of
        self._shelves, self._plain_training = shelves, plain_training

    @property
    def are_kept(self) -> bool:
        """Say whether pictures are kept at all."""
        return self._shelves is not None

    def plain(self, picture: Picture) -> Pixels:
        """Return a picture the way predict reads it, uint8 [H, W, 3].

        Raises:
            BadImageError, DataError: it is not kept, and its file cannot be read, or is not the one that was scanned.
        """
        return self._row("plain", picture)

    def augmented(self, picture: Picture, seed: int, *, finished: bool = True) -> Pixels:
        """Return the random view of a picture that `seed` draws, uint8 [H, W, 3], cut from its source.

        Args:
            finished: False leaves the last part of the augmentation to `training/loop/augmentation.py`.

        Raises:
            BadImageError, DataError: as `plain` does.
        """
        assert self._settings is not None, "the recipe is resolved, and asks for augmented views"
        image = source.unpack(self._row("source", picture))
        return augment(image, self._spec, self._settings, seed, finished=finished)

    def unvaried(self, picture: Picture) -> Pixels:
        """Return a training picture as evaluation sees it, uint8 [H, W, 3], but from its source, where it has one.

        Raises:
            BadImageError, DataError: as `plain` does.
        """
        if self.source_side is None:
            return self.plain(picture)
        return transforms.evaluate(source.unpack(self._row("source", picture)), self._spec)

    def lacking(self, pictures: Iterable[Picture]) -> Lacking:
        """Return the pictures that have to be decoded, each with what is not kept of it."""
        if self._shelves is None:
            return dict.fromkeys(pictures, ("plain",))
        wanted = {picture: self._kinds(picture) for picture in pictures}
        missing = {
            kind: shelf.missing(_key(picture) for picture, kinds in wanted.items() if kind in kinds)
            for kind, shelf in self._shelves.items()
        }
        found = {p: tuple(kind for kind in kinds if _key(p) in missing[kind]) for p, kinds in wanted.items()}
        return {picture: kinds for picture, kinds in found.items() if kinds}

    def expected_bytes(self, lacking: Lacking) -> int:
        """Return about how many bytes will be kept of pictures, by the size of some of them."""
        plain = sum("plain" in kinds for kinds in lacking.values())
        cut = [picture for picture, kinds in lacking.items() if "source" in kinds]
        sample = [self._source_bytes(picture) for picture in cut[:: max(1, len(cut) // PROBED)]]
        each = sum(sample) / len(sample) if sample else 0
        return plain * 3 * self._spec.height * self._spec.width + round(len(cut) * each)

    def in_memory(self, pictures: Sequence[Picture]) -> int:
        """Return how many of the pictures are held in memory, because the cache did not take them."""
        shelves = (self._shelves or {}).values()
        return sum(any(shelf.holds(_key(picture)) for shelf in shelves) for picture in pictures)

    @contextmanager
    def keeper(self, lacking: Lacking, *, write: bool) -> Iterator[Keeper]:
        """Give a `Keeper` for pictures; at the end, also when an exception passes, what it has is written.

        Args:
            write: False: they are decoded, and nothing is kept.
        """
        with ExitStack() as stack:
            shelves = (self._shelves or {}) if write else {}
            yield Keeper(self, lacking, {kind: stack.enter_context(shelf.writer()) for kind, shelf in shelves.items()})

    def mend(self) -> None:
        """Keep what had to be decoded again because the cache had it no longer, or not whole."""
        for shelf in (self._shelves or {}).values():
            shelf.mend()

    def decode(self, picture: Picture, kind: Kind) -> Pixels:
        """Read a picture's file and return what is kept of it: plain [H, W, 3], or a source as a row [bytes].

        Raises:
            BadImageError, DataError: as `plain` does.
        """
        file = self._file_of(picture)
        if kind == "plain":
            pixels = transforms.load(file, self._spec)
            self.looks.see(picture.path, file, pixels)
            return pixels
        assert self.source_side is not None, "only random views are cut from a source"
        image = source.read_source(file, self._spec, self.source_side)
        self.looks.see_image(picture.path, file, image)
        return source.pack(image, self.source_side)

    def _row(self, kind: Kind, picture: Picture) -> Pixels:
        if self._shelves is None or kind not in self._kinds(picture):
            return self.decode(picture, kind)
        shelf = self._shelves[kind]
        row = shelf.fetch(_key(picture))
        if row is None:
            row = self.decode(picture, kind)
            shelf.hold(_key(picture), row)
        return row

    def _kinds(self, picture: Picture) -> tuple[Kind, ...]:
        """Return what a run wants of a picture."""
        if picture.split != "train" or self._settings is None:
            return ("plain",)
        return ("plain", "source") if self._plain_training else ("source",)

    def _source_bytes(self, picture: Picture) -> int:
        assert self.source_side is not None
        limits = ImageLimits(self._spec.max_pixels, self._spec.min_side)
        try:
            facts = probe(self._file_of(picture), limits)
        except BadImageError:
            return 0
        return source.row_bytes(source.row_side(facts.width, facts.height, self.source_side))


class Keeper:
    """Decodes pictures in many threads, and keeps them in one."""

    def __init__(self, pictures: Pictures, lacking: Lacking, add: Mapping[Kind, Add]) -> None:
        self._pictures, self._lacking, self._add = pictures, lacking, add
        self._decoded: dict[Picture, list[tuple[Kind, Pixels]]] = {}

    def decode(self, picture: Picture) -> Pixels:
        """Decode what is lacking of a picture; return no pixels, `keep` finds them.

        Raises:
            BadImageError, DataError: as `Pictures.plain` does.
        """
        rows = [(kind, self._pictures.decode(picture, kind)) for kind in self._lacking[picture]]
        if self._add:
            self._decoded[picture] = rows
        return _NOTHING

    def keep(self, pictures: Iterable[Picture]) -> None:
        """Keep pictures that were decoded."""
        for picture in pictures:
            for kind, row in self._decoded.pop(picture, ()):
                self._add[kind](_key(picture), row)


def open_pictures(
    recipe: Recipe,
    run: RunFolder,
    observer: Observer,
    spec: Preprocessing,
    settings: Augmentation | None,
    file_of: Callable[[Picture], Path],
    *,
    read_only: bool = False,
    sharers: int = 1,
) -> Pictures:
    """Open what a run keeps of its pictures: nothing in mode `freeze`, or where the recipe says so.

    Args:
        read_only: leave no trace.
        sharers: how many processes have this machine's memory between them.
    """
    if recipe.mode == "freeze" or not recipe.data.keep_pictures:
        return Pictures(spec, settings, file_of)
    refusals: list[str] = []
    cache = open_cache(recipe, run, observer, holds="picture", read_only=read_only, note=refusals.append)
    memory = Memory(int(recipe.data.memory_gb * GB) // sharers)
    plain = cache.space(plain_facts(spec), shape=(spec.height, spec.width, 3), dtype="uint8")
    shelves: dict[Kind, Shelf] = {"plain": Shelf([plain], memory)}
    if settings is not None:
        shelves["source"] = Shelf(_source_spaces(cache, source.source_side(spec, settings)), memory)
    plain_training = isinstance(recipe.features.views, int)
    return Pictures(spec, settings, file_of, shelves, plain_training=plain_training, refusals=refusals)


def _source_spaces(cache: FeatureCache, side: int) -> list[Space]:
    return [
        cache.space(source_facts(side, row_side), shape=(source.row_bytes(row_side),), dtype="uint8")
        for row_side in source.row_sides(side)
    ]


def _key(picture: Picture) -> bytes:
    return bytes.fromhex(picture.sha256)

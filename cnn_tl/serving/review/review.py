"""A review in progress: what its page asks for, as plain data. Its methods may be called from several threads."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import Any

from cnn_tl.core.errors import ResourceError, UsageError, printable
from cnn_tl.data.decoding.image import ImageLimits, read_image
from cnn_tl.doctor.commands import train_command
from cnn_tl.doctor.decisions import EXCLUDE, RELABEL, Choice, Decisions, Verdict
from cnn_tl.pages.thumbnail import thumbnail
from cnn_tl.serving.review.suspects import KINDS, Examined, Suspect

SIDES = {"large": 960, "small": 200}
"""Name of a size in a URL -> the longer side of the image in pixels."""

SHOWN = 48
"""Images of a group of twins that are shown; a larger one is decided with those that are not."""

_QUALITY = 88
_LIMITS = ImageLimits(min_side=1)
_AHEAD = 3
"""Suspects whose images a page loads before it shows them."""


class Review:
    """The suspects of a doctor's folder and the decisions about them.

    Args:
        decisions: closed by `close`.
    """

    def __init__(self, examined: Examined, decisions: Decisions) -> None:
        self._examined, self._decisions = examined, decisions
        self._lock = threading.Lock()
        self._is_closed = False
        self._verdicts = decisions.verdicts
        self._suspect_of = {
            examined.images[index].path: number
            for number, suspect in enumerate(examined.suspects)
            for index in suspect.images
        }
        self._of_kind = {
            kind: [place for place, suspect in enumerate(examined.suspects) if suspect.kind == kind] for kind in KINDS
        }
        self._decided = [self._is_decided(suspect) for suspect in examined.suspects]
        self._encoded = lru_cache(128)(self._encode)

    def close(self) -> None:
        """Wait for the decision that is being written, and take no more."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._decisions.close()

    @property
    def classes(self) -> list[str]:
        """The names of the classes, for display."""
        return [printable(name) for name in self._examined.classes]

    @property
    def total(self) -> int:
        """How many suspects there are."""
        return len(self._decided)

    @property
    def decided(self) -> int:
        """How many are decided, by review or by what stands in the two files."""
        return sum(self._decided)

    @property
    def command(self) -> list[str]:
        """The words of the command that trains on the data as corrected."""
        folder = self._decisions.folder
        there = [name for name in (EXCLUDE, RELABEL) if (folder / name).exists()]
        return train_command(self._examined.root, folder, there)

    def first(self) -> int:
        """Return the first suspect that is open, or the first of all."""
        return self._next_open(-1) or 0

    def suspect(self, number: int) -> dict[str, Any]:
        """Return what the page shows of a suspect, and how far the review is.

        Raises:
            UsageError: there is no such suspect.
        """
        with self._lock:
            return self._shown(number)

    def decide(
        self, number: int, choice: Choice, label: int | None = None, marked: Collection[int] = ()
    ) -> dict[str, Any]:
        """Record a decision, and return the next suspect that is open, or this one if none is.

        Args:
            choice: exclude excludes an image, or those of a group that are marked, and keeps the others; relabel gives
                the image, or those that are not marked, a class, and excludes the marked ones; keep keeps all.
            label: the index of the class for relabel.
            marked: places in the group.

        Raises:
            UsageError: there is no such suspect, place or class, or nothing is marked.
            ResourceError: the decision cannot be written.
        """
        with self._lock:
            if self._is_closed:
                raise ResourceError("this review has ended; run cnn-tl review again")
            verdicts = self._verdicts_of(self._of(number), choice, label, frozenset(marked))
            try:
                self._decisions.decide(verdicts)
            finally:
                self._refresh(verdict.image for verdict in verdicts)
            following = self._next_open(number)
            said = f"{self._names(number)}: {self._outcome(self._of(number))}"
            return {**self._shown(number if following is None else following), "said": said}

    def undo(self) -> dict[str, Any]:
        """Take the last decision back, and return its suspect.

        Raises:
            UsageError: there is none.
            ResourceError: it cannot be written.
        """
        with self._lock:
            if self._is_closed:
                raise ResourceError("this review has ended; run cnn-tl review again")
            before = self._verdicts
            try:
                images = self._decisions.undo()
            finally:
                self._refresh(before)
            if not images:
                raise UsageError("there is no decision to undo")
            number = next((self._suspect_of[image] for image in images if image in self._suspect_of), None)
            if number is None:  # of suspects that doctor no longer names
                return {**self._shown(self._next_open(-1) or 0), "said": f"{printable(images[0])}: undone"}
            outcome = self._outcome(self._of(number))
            before_that = f"; as before: {outcome}" if outcome else ""
            return {**self._shown(number), "said": f"{self._names(number)}: undone{before_that}"}

    def image(self, index: int, size: str) -> bytes:
        """Return an image as WebP or JPEG, decoded and encoded anew.

        Args:
            size: a key of `SIDES`.

        Raises:
            UsageError: there is no such image or size.
            BadImageError, ResourceError: it cannot be read.
        """
        if not 0 <= index < len(self._examined.images) or size not in SIDES:
            raise UsageError("there is no such image")
        return self._encoded(index, SIDES[size])

    def _encode(self, index: int, side: int) -> bytes:
        return thumbnail(read_image(self._examined.file(index), _LIMITS, draft=(2 * side, 2 * side)), side, _QUALITY)

    def _of(self, number: int) -> Suspect:
        if not 0 <= number < self.total:
            raise UsageError("there is no such suspect")
        return self._examined.suspects[number]

    def _verdicts_of(
        self, suspect: Suspect, choice: Choice, label: int | None, marked: frozenset[int]
    ) -> list[Verdict]:
        """Return what a decision comes to for each image of a suspect."""
        places = range(len(suspect.images))
        is_group = len(suspect.images) > 1
        if not marked <= set(places) or (label is not None and not 0 <= label < len(self._examined.classes)):
            raise UsageError("there is no such image or class")
        if choice == "relabel" and label is None:
            raise UsageError("relabel needs a class")
        if choice == "exclude" and is_group and not marked:
            raise UsageError("mark the copies to exclude first")
        out = frozenset() if choice == "keep" or (choice == "relabel" and not is_group) else marked
        if choice == "exclude" and not is_group:
            out = frozenset(places)
        return [
            self._verdict(suspect.images[place], place in out, label if choice == "relabel" else None)
            for place in places
        ]

    def _verdict(self, index: int, excluded: bool, label: int | None) -> Verdict:
        image = self._examined.images[index]
        if excluded:
            return Verdict(image.path, "exclude")
        if label is not None and label != image.given:
            return Verdict(image.path, "relabel", self._examined.classes[label])
        return Verdict(image.path, "keep", None if image.given is None else self._examined.classes[image.given])

    def _refresh(self, images: Iterable[str]) -> None:
        self._verdicts = self._decisions.verdicts
        for number in {self._suspect_of[image] for image in images if image in self._suspect_of}:
            self._decided[number] = self._is_decided(self._examined.suspects[number])

    def _is_decided(self, suspect: Suspect) -> bool:
        """Say whether every image was decided about, or the files settled it before: one copy is left, say."""
        return self._is_reviewed(suspect) or self._is_settled(suspect)

    def _is_reviewed(self, suspect: Suspect) -> bool:
        return all(self._examined.images[index].path in self._verdicts for index in suspect.images)

    def _is_settled(self, suspect: Suspect) -> bool:
        """Say whether the files exclude all images, or all but one whose label is not in doubt."""
        images = [self._examined.images[index] for index in suspect.images]
        left = [image for image in images if image.path not in self._decisions.excluded_before]
        if len(left) != 1 or left[0].path in self._decisions.relabelled_before:
            return len(left) <= 1
        return len(images) > 1 and not left[0].is_suspect and len({image.given for image in images}) == 1

    def _next_open(self, number: int) -> int | None:
        """Return the next open suspect after one, from the start again after the last; None: all are decided."""
        places = [*range(number + 1, self.total), *range(max(number, 0))]
        return next((place for place in places if not self._decided[place]), None)

    def _names(self, number: int) -> str:
        images = self._of(number).images
        more = f" and {len(images) - 1:,} more" if len(images) > 1 else ""
        return printable(self._examined.images[images[0]].path) + more

    def _outcome(self, suspect: Suspect) -> str | None:
        """Return in words what was decided; None: nothing."""
        if self._is_reviewed(suspect):
            verdicts = [self._verdicts[self._examined.images[index].path] for index in suspect.images]
            counts = Counter(self._words(one) for one in verdicts)
            if len(verdicts) == 1:
                return next(iter(counts))
            return ", ".join(f"{count:,} {words}" for words, count in counts.items())
        if self._is_settled(suspect):
            return f"settled by {EXCLUDE} or {RELABEL} already"
        return None

    @staticmethod
    def _words(verdict: Verdict) -> str:
        return {"keep": "kept", "exclude": "excluded"}.get(
            verdict.choice, f"relabelled to {printable(verdict.label or '')}"
        )

    def _shown(self, number: int) -> dict[str, Any]:
        suspect = self._of(number)
        images = self._examined.images
        return {
            "number": number,
            "kind": suspect.kind,
            "why": suspect.why,
            "suggested": suspect.suggested,
            "is_group": len(suspect.images) > 1,
            "images": [self._shown_image(index) for index in suspect.images[:SHOWN]],
            "hidden": max(0, len(suspect.images) - SHOWN),
            "count": len(suspect.images),
            "marked": self._marked(suspect),
            "beside": [
                {"title": title, "images": [{"index": one, "path": printable(images[one].path)} for one in them]}
                for title, them in suspect.beside
            ],
            "outcome": self._outcome(suspect),
            "progress": self._progress(),
            "ahead": self._ahead(number),
        }

    def _shown_image(self, index: int) -> dict[str, Any]:
        image = self._examined.images[index]
        verdict = self._verdicts.get(image.path)
        outcome = self._words(verdict) if verdict else None
        if verdict is None and image.path in self._decisions.excluded_before:
            outcome = f"in {EXCLUDE}"
        return {
            "index": index, "path": printable(image.path), "label": image.given, "split": image.split,
            "outcome": outcome, "doubtful": image.is_suspect,
        }  # fmt: skip

    def _marked(self, suspect: Suspect) -> list[int]:
        """Return which of a group are marked: what was decided, what stands in exclude.txt, or what is proposed."""
        paths = [self._examined.images[index].path for index in suspect.images]
        if self._is_reviewed(suspect):
            return [place for place, path in enumerate(paths) if self._verdicts[path].choice == "exclude"]
        there = [place for place, path in enumerate(paths) if path in self._decisions.excluded_before]
        return there or list(suspect.marked)

    def _progress(self) -> dict[str, Any]:
        kinds = []
        for kind, title in KINDS.items():
            places = self._of_kind[kind]
            if places:
                still = [place for place in places if not self._decided[place]]
                counts = {"count": len(places), "open": len(still), "next": (still or places)[0]}
                kinds.append({"kind": kind, "title": title, **counts})
        return {
            "decided": self.decided, "total": self.total, "kinds": kinds, "undoable": len(self._decisions),
            "command": " ".join(self.command),
        }  # fmt: skip

    def _ahead(self, number: int) -> list[int]:
        """Return the images of the next open suspects."""
        found: list[int] = []
        for _ in range(_AHEAD):
            following = self._next_open(number)
            if following is None:
                break
            found += self._examined.suspects[following].images[:4]
            number = following
        return found

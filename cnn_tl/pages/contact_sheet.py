"""A contact sheet: one page of images with their classes, written while they are predicted, in little memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice

from cnn_tl.core.formatting import counted
from cnn_tl.pages.charts.bars import bar
from cnn_tl.pages.content import Card
from cnn_tl.pages.page import picture, stream

MOST_THUMBNAILS, MOST_THUMBNAIL_BYTES = 500, 3_000_000
"""Thumbnails on a page, and their size together, which base64 increases by a third."""

MOST_ROWS = 10_000
"""Images that a page lists without a thumbnail, about 2 MB: with more, browsers open it slowly. CSV takes any."""

MOST_CLASSES_NAMED = 5


def contact_sheet(
    cards: Iterable[Card],
    classes: Sequence[str],
    top: int,
    thumbnail_of: Callable[[Card], bytes | None],
    *,
    judged: bool = False,
) -> Iterator[str]:
    """Yield the page piece by piece; each card is taken when those before it are written. All are taken.

    Args:
        cards: without thumbnails.
        classes: all classes of the model.
        top: how many classes a card lists.
        thumbnail_of: called for the first cards only; None for an image that cannot be drawn.
        judged: whether the cards have sets or distances.
    """
    sheet = _Sheet(iter(cards), classes, top, thumbnail_of, judged)
    named = ", ".join(classes[:MOST_CLASSES_NAMED]) + (", ..." if len(classes) > MOST_CLASSES_NAMED else "")
    subtitle = f"Predicted by a model of {counted(len(classes), 'class')}: {named}"
    return stream("contact_sheet.html", title="Predictions", subtitle=subtitle, sheet=sheet, show=picture, bar=bar)


class _Sheet:
    """Deals out the cards to the template, and counts them.

    Attributes:
        images, unreadable, left_out: of those that were taken so far.
    """

    def __init__(
        self,
        cards: Iterator[Card],
        classes: Sequence[str],
        top: int,
        thumbnail_of: Callable[[Card], bytes | None],
        judged: bool,
    ) -> None:
        self.classes, self.top, self.judged = classes, top, judged
        self.images = self.unreadable = self.left_out = 0
        self._cards, self._thumbnail_of = self._counted(cards), thumbnail_of

    def cards(self) -> Iterator[Card]:
        """Yield cards with thumbnails, until these are too many or too large."""
        left = MOST_THUMBNAIL_BYTES
        for card in islice(self._cards, MOST_THUMBNAILS):
            image = None if card.error else self._thumbnail_of(card)
            left -= len(image or b"")
            if left < 0:
                self._cards = chain([card], self._cards)
                return
            yield replace(card, thumbnail=image)

    @property
    def has_rows(self) -> bool:
        """Whether there is another card."""
        following = list(islice(self._cards, 1))
        self._cards = chain(following, self._cards)
        return bool(following)

    def rows(self) -> Iterator[Card]:
        """Yield those after the cards, and take what is too much for a page."""
        yield from islice(self._cards, MOST_ROWS)
        self.left_out = sum(1 for _ in self._cards)

    def _counted(self, cards: Iterator[Card]) -> Iterator[Card]:
        for card in cards:
            self.images += 1
            self.unreadable += card.error is not None
            yield card

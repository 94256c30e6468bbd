"""Thumbnails of a page, each in it once however often it is shown, and together no larger than a limit."""

from __future__ import annotations

from markupsafe import Markup

from cnn_tl.core.errors import printable
from cnn_tl.pages.page import data_url, no_picture

MOST_BYTES = 1_500_000
"""Thumbnails of one page together, before base64 makes them a third larger: about 450 photographs."""


class Pictures:
    """Collects the thumbnails that a page shows; `definitions` goes at its end."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._room = most_bytes
        self._ids: dict[bytes, int | None] = {}

    @property
    def left_out(self) -> int:
        """How many different thumbnails were over the limit."""
        return sum(one is None for one in self._ids.values())

    def show(self, image: bytes | None, alt: str) -> Markup:
        """Return a reference to a thumbnail; an empty place without one, or over the limit."""
        number = None if image is None else self._number(image)
        if number is None:
            return no_picture(alt)
        use = '<svg class="thumb" viewBox="0 0 128 128" role="img" aria-label="{}"><use href="#t{}"/></svg>'
        return Markup(use).format(printable(alt), number)

    def definitions(self) -> Markup:
        """Return the thumbnails that were shown so far."""
        one = '<symbol id="t{}" viewBox="0 0 128 128"><image width="128" height="128" href="{}"/></symbol>'
        shown = [Markup(one).format(n, data_url(image)) for image, n in self._ids.items() if n is not None]
        head = Markup('<svg class="definitions" width="0" height="0" aria-hidden="true">')
        return head + Markup("\n").join(shown) + Markup("</svg>")

    def _number(self, image: bytes) -> int | None:
        if image not in self._ids:
            fits = len(image) <= self._room
            self._room -= len(image) if fits else 0
            self._ids[image] = len(self._ids) if fits else None
        return self._ids[image]

"""The contact sheet: written as images come, with a limit on what it holds, and escaped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PIL import Image

from cnn_tl.pages import contact_sheet as sheets
from cnn_tl.pages.contact_sheet import contact_sheet
from cnn_tl.pages.content import Card
from cnn_tl.pages.thumbnail import thumbnail

CLASSES = ("ant", "bee")
THUMBNAIL = thumbnail(Image.new("RGB", (40, 40), "red"))


def cards(count: int) -> list[Card]:
    return [Card(f"photos/{n}.png", None, (("bee", 0.75), ("ant", 0.25))) for n in range(count)]


def page(given: list[Card], thumbnail: bytes | None = THUMBNAIL) -> str:
    return "".join(contact_sheet(given, CLASSES, 2, lambda card: thumbnail))


def test_each_image_is_a_card_with_picture_classes_and_path() -> None:
    html = page(cards(3))
    assert html.count('<li class="card">') == html.count("<img ") == 3
    assert [html.count(f"<bdi>photos/{n}.png</bdi>") for n in range(3)] == [1, 1, 1]
    assert html.count("75.0%") == html.count("25.0%") == 3
    assert '<option value="1">bee</option>' in html
    assert "<p>3 images.</p>" in html
    assert "More images" not in html


def test_an_unreadable_image_says_why_and_is_not_decoded_again() -> None:
    drawn: list[Card] = []
    given = [Card("a.png", None, (), error="truncated PNG"), *cards(1)]
    html = "".join(contact_sheet(given, CLASSES, 2, lambda card: drawn.append(card)))
    assert drawn == given[1:]
    assert html.count("no preview") == 2
    assert '<p class="problem">truncated PNG</p>' in html
    assert "<p>2 images, 1 of them could not be read.</p>" in html


def test_what_does_not_fit_becomes_rows_and_then_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "MOST_THUMBNAILS", 2)
    monkeypatch.setattr(sheets, "MOST_ROWS", 3)
    html = page([*cards(3), Card("bad.png", None, (), error="empty file"), *cards(6)])
    assert (html.count('<li class="card">'), html.count("<tr><td>")) == (2, 3)
    assert '<td class="problem">empty file</td>' in html
    assert "<p>10 images, 1 of them could not be read. This page leaves out the last 5:" in html


def test_thumbnails_end_where_they_are_too_large_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "MOST_THUMBNAIL_BYTES", 2 * len(THUMBNAIL) + 1)
    html = page(cards(5))
    assert (html.count("<img "), html.count("<tr><td>")) == (2, 3)
    assert [html.count(f"<bdi>photos/{n}.png</bdi>") for n in range(5)] == [1] * 5


def test_a_card_is_written_before_the_next_one_is_taken() -> None:
    taken = 0

    def one_by_one() -> Iterator[Card]:
        nonlocal taken
        for card in cards(5):
            taken += 1
            yield card

    written = ""
    for piece in contact_sheet(one_by_one(), CLASSES, 1, lambda card: None):
        written += piece
        assert taken - written.count("</li>") <= 1
        if taken and not written.count("</li>"):
            assert "Content-Security-Policy" in written
    assert taken == 5


def test_an_error_of_the_predictions_is_not_swallowed() -> None:
    def broken() -> Iterator[Card]:
        yield from cards(1)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(contact_sheet(broken(), CLASSES, 1, lambda card: None))


def test_hostile_names_are_text() -> None:
    evil = "</script><script>alert(1)</script>\"'\u202e\x07"
    html = "".join(contact_sheet([Card(evil, None, ((evil, 0.5),), error=None)], (evil,), 1, lambda card: None))
    assert html.count("<script") == html.count("</script>") == 1
    assert "alert(1)" in html
    assert "\u202e" not in html
    assert "\x07" not in html


def test_no_image_at_all() -> None:
    assert "<p>0 images.</p>" in page([])


def test_a_card_says_what_the_model_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    evil, names = "<script>alert(1)", tuple(f"kind {n}" for n in range(20))
    ranked = (("bee", 0.75), ("ant", 0.25))
    given = [
        Card("a.png", None, ranked, verdict="unknown", withheld=True, members=(evil, "ant"), distance=1.234),
        Card("b.png", None, ranked, verdict="answered", members=names, distance=0.5),
    ]
    monkeypatch.setattr(sheets, "MOST_THUMBNAILS", 2)
    html = "".join(contact_sheet([*given, *given], CLASSES, 2, lambda card: THUMBNAIL, judged=True))
    assert html.count('<p class="doubt"><b>unknown</b>: no answer; it would have been</p>') == 1
    assert html.count('data-verdict="unknown"') == html.count('data-verdict="answered"') == 2, "a card and a row"
    assert "<td>unknown, withheld</td>" in html
    assert html.count("1.23") == html.count("alert(1)") == 2
    assert evil not in html
    assert html.count(" and 12 more") == 2
    assert "kind 7" in html
    assert "kind 8" not in html

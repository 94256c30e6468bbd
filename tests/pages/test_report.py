"""The report shows its figures, escapes all names, and stays small."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from made_up_report import HOSTILE, report_page

from cnn_tl.core.formatting import percent
from cnn_tl.pages import report
from cnn_tl.pages.confusion import IMAGES_PER_PAIR, MOST_PAIRS, pairs_of
from cnn_tl.pages.content import Card, Gallery
from cnn_tl.pages.image_list import image_list
from cnn_tl.pages.pictures import Pictures
from cnn_tl.pages.report import as_json, render_report

VOID = {"meta", "link", "img", "input", "br"}


class Outline(HTMLParser):
    """Collects the tags, the ids and the links of a page, and checks that every tag is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: set[str] = set()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.ids += [str(value) for name, value in attrs if name == "id"]
        self.links += [str(value) for name, value in attrs if name in ("href", "src")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def block(html: str, name: str) -> dict[str, object]:
    [text] = re.findall(f'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)
    return json.loads(text)


def test_every_figure_is_shown_and_in_the_json() -> None:
    page = report_page()
    html = render_report(page)
    figures = page.figures
    shown = [figures.accuracy, *figures.interval, figures.baseline, figures.macro.f1, figures.calibration_error]
    shown += [one.recall for one in figures.per_class.values() if one.recall is not None]
    for value in shown:
        assert percent(value) in html
    assert f"{figures.log_loss:.3f}" in html
    for sentence in (*page.verdict, "Why.", "No label.", "on &lt;this&gt; machine", "cnn-tl train &#39;a &amp; b&#39;"):
        assert sentence in html
    assert block(html, "figures") == json.loads(json.dumps(as_json(page)))
    assert block(html, "figures")["facts"] == {"mode": "freeze"}


def test_the_page_is_well_formed_and_its_links_stay_inside() -> None:
    html = render_report(report_page(classes=HOSTILE))
    outline = Outline(html)
    assert len(set(outline.ids)) == len(outline.ids)
    assert {link for link in outline.links if not link.startswith(("#", "data:"))} == set()
    assert {link[1:] for link in outline.links if link.startswith("#")} <= set(outline.ids)
    assert outline.tags.count("script") == 3
    assert not [name for name in outline.attributes if name.startswith("on") or name == "style"]
    assert "\u202e" not in html.replace("\\u202e", "").split('<script type="application/json" id="figures">')[0]
    assert "\x07" not in html


def test_each_confused_cell_leads_to_its_images() -> None:
    page = report_page(images=400)
    html = render_report(page)
    for images, i, j in page.figures.confused():
        assert f'href="#pair-{i}-{j}"' in html
        start = html.index(f'id="pair-{i}-{j}"')
        part = html[start : html.index("</details>", start)]
        of_pair = np.flatnonzero((page.answers.labels == i) & (page.answers.predicted == j))
        listed = [n for n in of_pair if page.answers.files[n] in part]
        assert len(listed) == min(images, IMAGES_PER_PAIR)


def test_the_surest_images_of_a_pair_come_first_and_the_rest_is_counted() -> None:
    page = report_page(images=600, sure=0.5)
    for pair in pairs_of(page):
        shown = [probability for _, probability in pair.rest]
        assert shown == sorted(shown, reverse=True)
        assert pair.left_out == pair.images - len(pair.cards) - len(pair.rest)
    assert any(pair.left_out for pair in pairs_of(page))


@pytest.mark.parametrize(("classes", "drawing"), [(2, "table"), (40, "table"), (41, "overview"), (101, "")])
def test_the_matrix_fits_its_classes(classes: int, drawing: str) -> None:
    page = report_page(images=6 * classes, classes=tuple(f"class {k:03d}" for k in range(classes)))
    html = render_report(page)
    assert ('<table class="confusion' in html) == (drawing == "table")
    assert ('<svg class="overview"' in html) == (drawing == "overview")
    assert len(pairs_of(page)) == len(page.figures.confused()) or len(pairs_of(page)) == MOST_PAIRS
    assert html.count("labelled <b>") > 0
    table = html[html.index('<section id="classes">') : html.index('<section id="confusion">')]
    assert table.count('<th scope="row">') == classes


@pytest.mark.parametrize(("images", "classes"), [(100_000, 10), (3_000, 1_000)])
def test_it_is_small_whatever_it_is_about(images: int, classes: int) -> None:
    page = report_page(images, tuple(f"class {k:04d}" for k in range(classes)), sure=3.0)
    assert len(render_report(page).encode()) < 3_000_000


def test_long_names_and_many_thumbnails_do_not_make_it_large() -> None:
    many = tuple(Card(f"{n}.jpg", None, (), thumbnail=n.to_bytes(20_000, "big")) for n in range(200))
    names = tuple(f"{k:02}{'long' * 60}" for k in range(40))
    html = render_report(report_page(images=20_000, classes=names, sure=2.0, galleries=(Gallery("Many", "", many),)))
    assert "left out to keep this page small" in html
    assert 4_000_000 < len(html.encode()) < 5_000_000


def test_the_list_begins_with_what_is_worth_a_look() -> None:
    answers = report_page(images=300).answers
    rows = image_list(answers)["rows"]
    wrong = [row for row in rows if row[1] != row[2]]
    assert rows[: len(wrong)] == wrong
    assert [row[3] for row in wrong] == sorted((row[3] for row in wrong), reverse=True)
    assert [row[3] for row in rows[len(wrong) :]] == sorted(row[3] for row in rows[len(wrong) :])
    some = image_list(answers, most=5)
    assert some["rows"] == rows[:5]
    assert (some["left_out"], some["wrong_left_out"]) == (295, len(wrong) - 5)
    assert len(image_list(answers, most_bytes=500)["rows"]) < 12


def test_thumbnails_are_in_the_page_once_and_within_the_limit() -> None:
    pictures = Pictures(most_bytes=5)
    first = pictures.show(b"abc", "one")
    assert pictures.show(b"abc", "one") == first
    assert "no preview" in pictures.show(b"defg", 'a"b')
    assert "no preview" in pictures.show(None, "none")
    assert pictures.left_out == 1
    assert pictures.definitions().count("<symbol") == 1


def test_the_fullest_cells_go_into_the_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MOST_CELLS", 3)
    page = report_page(images=300)
    figures = as_json(page)["figures"]
    fullest = np.sort(page.figures.confusion.ravel())[::-1][:3].tolist()
    assert [cell[2] for cell in figures["confusion"]] == fullest
    assert figures["confusion_left_out"] == np.count_nonzero(page.figures.confusion) - 3


def test_the_page_says_of_how_many_classes_it_shows_images() -> None:
    page = report_page(images=60)
    assert "For each class, the images nearest" in render_report(page)
    two = dict(list(page.class_galleries.items())[:2])
    assert "For the 2 classes with the most mistakes, of 3, the images" in render_report(
        replace(page, class_galleries=two)
    )

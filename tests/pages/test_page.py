"""Pages load nothing, and names from outside can do nothing in them."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from cnn_tl.pages.page import TEMPLATES, brief, picture, prose, render, safe_json, shown

HOSTILE = "</script><img src=x onerror=alert(1)>\u2028\u2029&amp;\udcff\n\u202e"


def test_json_in_a_page_ends_no_element_and_reads_back() -> None:
    text = safe_json({HOSTILE: [HOSTILE, 0.1, None, True], "nan": float("nan"), "inf": (float("inf"), 2)})
    assert not set("<>&\u2028\u2029\udcff") & set(text)
    assert json.loads(text) == {HOSTILE: [HOSTILE, 0.1, None, True], "nan": None, "inf": [None, 2]}
    text.encode("utf-8")


def test_a_name_is_shown_with_visible_controls_and_isolated() -> None:
    assert shown("a<b>\u202e\n\udcff\x00é") == "<bdi>a&lt;b&gt;\\u202e\\n\\udcff\\x00é</bdi>"
    assert 'alt="&#34; onload=&#34;x"' in picture(b"\xff\xd8", '" onload="x')


def test_an_option_in_a_sentence_is_kept_on_one_line() -> None:
    assert prose("<b> or --set run.report=x, a--b") == (
        '&lt;b&gt; or <span class="whole">--set</span> run.report=x, a--b'
    )


def test_a_long_name_is_cut_where_it_is_repeated() -> None:
    assert [brief("x" * 60), brief("x" * 61), brief("\u202e" * 61)] == [
        "x" * 60,
        "x" * 59 + "…",
        ("\\u202e" * 10)[:59] + "…",
    ]


@pytest.mark.parametrize("kind", ["style", "script"])
def test_the_policy_allows_just_what_is_in_the_page(kind: str) -> None:
    html = render("base.html")
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    assert policy.startswith("default-src 'none'; img-src data:;")
    [content] = re.findall(f"<{kind}>(.*?)</{kind}>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_templates_have_nothing_that_the_policy_forbids() -> None:
    for path in TEMPLATES.rglob("*.html"):
        text = path.read_text("utf-8")
        assert not re.search(r'\sstyle="|\son[a-z]+="|javascript:|https?://', text), path
        assert "| safe " not in text.replace("' class=\"on\"' | safe ", ""), path
    script = (TEMPLATES / "page.js").read_text("utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(|https?://", script)

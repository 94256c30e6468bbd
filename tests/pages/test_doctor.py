"""The page of a doctor: sections in the given order, hostile names as text, figures as JSON."""

from __future__ import annotations

import json
import re

from cnn_tl.pages.content import Table
from cnn_tl.pages.doctor import DoctorPage, Group, Member, Row, Section, render_doctor

HOSTILE = "</script><script>alert(1)</script>"


def page() -> DoctorPage:
    members = (Member(f"{HOSTILE}.jpg", f"train, {HOSTILE}", suspect=True), Member("b.jpg", "val, b", note="near it"))
    return DoctorPage(
        title=HOSTILE,
        subtitle="2 images",
        verdict=("Use --set data.groups=twins.",),
        sections=(
            Section("leaks", "Leaks", HOSTILE, "Look.", groups=(Group(HOSTILE, members),), more="3 more"),
            Section("shortcuts", "Shortcuts", "text", "advice", rows=(Row("format", 0.25, "25%", HOSTILE),)),
        ),
        clean=("Nothing was found of: twins.",),
        tables=(Table("Data", (("folder", HOSTILE, ""),)),),
        commands=(f"cnn-tl review '{HOSTILE}'",),
        notes=(HOSTILE,),
        data={"source": HOSTILE, "nan": float("nan")},
    )


def test_hostile_names_are_text_everywhere() -> None:
    html = render_doctor(page())
    assert HOSTILE not in html
    assert html.count("alert(1)") >= 8
    data = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    assert json.loads(data[0]) == {"source": HOSTILE, "nan": None}


def test_sections_keep_their_order_and_say_what_is_not_shown() -> None:
    html = render_doctor(page())
    places = [
        html.index(text) for text in ('id="leaks"', "3 more", 'id="shortcuts"', 'id="facts"', "Nothing was found")
    ]
    assert places == sorted(places)
    assert html.count('class="mini wrong"') == 1
    assert "<b><bdi>format</bdi></b>" in html

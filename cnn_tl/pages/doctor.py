"""The page of a doctor: what was found, the most harmful first, with the images that it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cnn_tl.pages.charts.bars import bar
from cnn_tl.pages.content import Table
from cnn_tl.pages.page import render
from cnn_tl.pages.pictures import Pictures


@dataclass(frozen=True)
class Member:
    """One image of a group.

    Attributes:
        file: relative to the data folder.
        place: its split and class, such as "train, cat".
        note: more about it, such as the class that is suggested.
        thumbnail: a WebP or JPEG file; None: not drawn.
        suspect: whether it is this image that may be at fault.
    """

    file: str
    place: str
    note: str = ""
    thumbnail: bytes | None = None
    suspect: bool = False


@dataclass(frozen=True)
class Group:
    """Images that belong together, such as twins, or a suspect and its neighbours; `text` says why."""

    text: str
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Row:
    """A cue and how well it predicts the class, drawn as a bar from 0 to 1; `text` is what is printed beside it."""

    name: str
    share: float
    text: str
    remark: str = ""


@dataclass(frozen=True)
class Section:
    """One kind of finding.

    Attributes:
        id: for links. title, text, advice: what was found and what to do.
        groups: the images; `more` says how many are not shown.
        rows: of a chart of bars; empty where there is none.
    """

    id: str
    title: str
    text: str
    advice: str
    groups: tuple[Group, ...] = ()
    more: str = ""
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class DoctorPage:
    """What the page shows.

    Attributes:
        verdict: sentences; the first is printed large.
        clean: sections without a finding, as sentences.
        commands: lines for the shell.
        data: all of it as plain data; embedded as JSON.
    """

    title: str
    subtitle: str
    verdict: tuple[str, ...]
    sections: tuple[Section, ...]
    clean: tuple[str, ...]
    tables: tuple[Table, ...]
    commands: tuple[str, ...]
    notes: tuple[str, ...]
    data: Mapping[str, Any]


def render_doctor(page: DoctorPage) -> str:
    """Return the page as HTML; it loads nothing."""
    return render("doctor.html", page=page, pictures=Pictures(), bar=bar)

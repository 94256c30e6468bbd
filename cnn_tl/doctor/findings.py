"""What a doctor finds: kinds in the order of the harm they do, each with a count, an example, and what to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

KINDS = {
    "leaks": "Images of one split in another",
    "conflicts": "One image in two classes",
    "labels": "Labels that look wrong",
    "shortcuts": "Attributes that tell the class or the split",
    "series": "Series that belong together",
    "twins": "Copies within a split",
    "broken": "Images that cannot be read",
    "outliers": "Images unlike the others",
}
"""Kind -> its title, the most harmful first."""

REVIEWED = frozenset({"leaks", "conflicts", "labels", "twins", "outliers"})
"""Kinds about single images, which `cnn-tl review` shows."""


@dataclass(frozen=True)
class Finding:
    """One kind of fault that was found.

    Attributes:
        kind: a key of `KINDS`.
        count: how many images, or cues, are concerned.
        text: a sentence with the count. example: one of them, in words. advice: what to do.
    """

    kind: str
    count: int
    text: str
    example: str
    advice: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def by_harm(findings: list[Finding]) -> tuple[Finding, ...]:
    """Return the findings, the most harmful kind first."""
    order = list(KINDS)
    return tuple(sorted(findings, key=lambda one: order.index(one.kind)))

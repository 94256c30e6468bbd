"""The chapters of the documentation: one Markdown file per topic, read on the web and with `cnn-tl guide`.

The first line of a guide is its title, the first paragraph a summary of one line. The only code here finds and reads
the files; `cnn_tl/cli/commands/guide.py` renders them.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files


@dataclass(frozen=True)
class Guide:
    """One chapter.

    Attributes:
        topic: the name that `cnn-tl guide` takes.
        title: the text of its first heading.
        summary: its first paragraph.
        text: the whole file, Markdown.
    """

    topic: str
    title: str
    summary: str
    text: str


def topics() -> list[str]:
    """Return the topics in alphabetical order."""
    names = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(".md") for name in names if name.endswith(".md"))


def read(topic: str) -> Guide:
    """Return a guide.

    Raises:
        KeyError: there is no such topic.
    """
    if topic not in topics():
        raise KeyError(topic)
    text = files(__name__).joinpath(f"{topic}.md").read_text("utf-8")
    title, summary, *_ = text.split("\n\n", 2)
    return Guide(topic, title.removeprefix("# "), " ".join(summary.split()), text)

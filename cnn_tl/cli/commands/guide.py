"""`cnn-tl guide`: the documentation in a terminal."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Annotated

import typer

from cnn_tl import guides
from cnn_tl.cli import completion
from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import UsageError, printable


def guide(
    topic: Annotated[
        str | None,
        typer.Argument(
            metavar="TOPIC",
            help="The guide to read; without it, the topics are listed.",
            autocompletion=completion.guides,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Read the documentation: list the topics, or show one, page by page on a terminal."""
    if topic is None:
        rows = [(name, guides.read(name).summary) for name in guides.topics()]
        console.show(console.table(["topic", "what it is about"], rows))
        console.note("read a guide: cnn-tl guide TOPIC")
        return
    try:
        found = guides.read(topic if topic in guides.topics() else topic.lower())
    except KeyError:
        near = get_close_matches(topic.lower(), guides.topics(), n=3, cutoff=0.6)
        hint = f"the nearest: {', '.join(near)}" if near else "cnn-tl guide lists them"
        raise UsageError(f"there is no guide {printable(repr(topic))}; {hint}") from None
    from cnn_tl.cli.terminal.markdown import Document

    console.show_paged(Document(found.text))

"""Markdown on a terminal, by rich, but with tables, code, links and images in the style of the other output.

rich's own Markdown cuts words in narrow columns, draws code on dark blocks, and shows an image as an emoji.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, ListItem, Markdown, MarkdownElement, Paragraph, TableElement
from rich.segment import Segment
from rich.syntax import Syntax
from rich.text import Text
from rich.theme import Theme

from cnn_tl.cli.terminal.tables import Grid, wrapped

WIDEST = 100
"""The longest line of prose in columns; longer ones are hard to read."""

_INDENT = 2
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
_GUIDE = re.compile(r"([a-z-]+)\.md(#.*)?")
_THEME = Theme(
    {
        "markdown.h1": "bold underline",
        "markdown.h2": "bold cyan",
        "markdown.h3": "bold",
        "markdown.code": "cyan",
        "markdown.link_url": "underline",
    }
)


class _Title(Heading):
    """A left-aligned heading."""

    LEVEL_ALIGN: ClassVar = {}


class _Prose(Paragraph):
    """A paragraph that never cuts a word."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in wrapped(self.text, options.max_width):
            yield _uncut(line)


class _Code(CodeBlock):
    """Indented code; in a console block, commands stand out from their output."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self._coloured().split("\n"):
            yield _uncut(Text(" " * _INDENT).append_text(line))

    def _coloured(self) -> Text:
        code = self.text.plain.rstrip("\n")
        if self.lexer_name != "console":
            text = Syntax(code, self.lexer_name, theme="ansi_dark", background_color="default").highlight(code)
            text.rstrip()
            return text
        lines: list[Text] = []
        typed = False
        for line in code.split("\n"):
            typed = line.startswith("$ ") or (typed and lines[-1].plain.endswith("\\"))
            lines.append(Text(line, style="bold" if typed else ""))
        return Text("\n").join(lines)


class _Item(ListItem):
    """An item of a list; its number has a dot."""

    def render_number(self, console: Console, options: ConsoleOptions, number: int, last_number: int) -> RenderResult:
        """Draw an item of a numbered list; rich passes the last number plus one."""
        left = len(f" {last_number - 1}. ")
        inside = options.update(width=options.max_width - left)
        for place, line in enumerate(console.render_lines(self.elements, inside, style=self.style)):
            yield Segment(" " * left if place else f"{number}. ".rjust(left))
            yield from line
            yield Segment.line()


class _Table(TableElement):
    """A table as wide as the screen."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        assert self.header is not None
        assert self.header.row is not None
        columns = [cell.content.plain + (">" if cell.justify == "right" else "") for cell in self.header.row.cells]
        rows = [[cell.content for cell in row.cells] for row in (self.body.rows if self.body else [])]
        lines = list(Grid(columns, rows).__rich_console__(console, options.update(width=console.width)))
        yield from lines[1:-1]  # the document adds blank lines itself


class Document(Markdown):
    """A Markdown text without its comments."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = Markdown.elements | {
        "paragraph_open": _Prose,
        "heading_open": _Title,
        "fence": _Code,
        "code_block": _Code,
        "list_item_open": _Item,
        "table_open": _Table,
    }

    def __init__(self, text: str) -> None:
        super().__init__(_COMMENT.sub("", text))
        for token in self.parsed:
            if token.children:
                token.children = list(_in_words(token.children))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it."""
        with console.use_theme(_THEME):
            yield from super().__rich_console__(console, options.update(width=min(options.max_width, WIDEST)))


def _in_words(tokens: Iterable[Any]) -> Iterator[Any]:
    """Yield the tokens of a text, with images and link targets replaced by words."""
    from markdown_it.token import Token

    def new(kind: str, content: str) -> Any:
        return Token(kind, "code" if kind == "code_inline" else "", 0, content=content)

    target = ""
    for token in tokens:
        if token.type == "image":
            yield new("text", f"[image: {''.join(part.content for part in token.children)}]")
        elif token.type == "link_open":
            target = str(token.attrs["href"])
        elif token.type == "link_close":
            if guide := _GUIDE.fullmatch(target):
                yield from (new("text", " ("), new("code_inline", f"cnn-tl guide {guide[1]}"), new("text", ")"))
            elif "://" in target:
                yield new("text", f" ({target})")
        else:
            yield token


def _uncut(line: Text) -> Text:
    line.no_wrap, line.overflow = True, "ignore"
    return line

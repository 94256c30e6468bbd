"""The fenced blocks of a Markdown document, which can be run, and the marks before them.

- `<!-- not run: REASON -->`: the block is not run.
- `<!-- output: REASON -->`: it is run, but the output shown has another origin and is not compared.
- `<!-- needs: DATA SET -->`: it is run by `pytest -m soak`.
- `<!-- exit: 3 -->`: the command ends with this exit code.
- `<!-- file: mine.yaml -->`: the block becomes that file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_MARK = re.compile(r"<!-- (not run|needs|output|exit|file): (.+?) -->")
_OTHER_COMMENTS = ("<!-- tests -->", "<!-- light -->", "<!-- Written by ")
"""Two that .ci/run looks for, and one that says where a document comes from."""

_MASKS = (
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "#"),  # digests
    (re.compile(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?(?: ?(?:ms|s|min|h|kB|MB|GB|[kM])\b)?"), "#"),
    (re.compile(r"# #"), "#"),  # 1 min 3 s
    (re.compile(r"[─━]+"), ""),
    (re.compile(r"\b(?:bf|fp)#"), "fp#"),  # the precision that pays on this processor
)
_PROGRESS = re.compile(r"[a-z][a-z /#-]*: #/#( .*)?")
"""A line of progress, which shows on a slow machine only."""


@dataclass
class Block:
    """A fenced block.

    Attributes:
        language: the word after the fence.
        line: where it begins in the document, from 1.
        lines: what stands in it.
        marks: the marks before it, such as `{"not run": "takes an hour"}`.
        is_next: whether only blank lines and marks lie between it and the block before.
    """

    language: str
    line: int
    lines: list[str] = field(default_factory=list)
    marks: dict[str, str] = field(default_factory=dict)
    is_next: bool = False

    @property
    def text(self) -> str:
        """What stands in it, as a text."""
        return "\n".join(self.lines) + "\n"


def blocks_of(path: Path) -> list[Block]:
    """Return the fenced blocks of a document in their order."""
    blocks: list[Block] = []
    inside: Block | None = None
    marks: dict[str, str] = {}
    is_next = False
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        fence = re.fullmatch(r"( *)```(\w*)", line)
        if fence and inside is None:
            inside = Block(fence[2], number, marks=marks, is_next=is_next)
            indent = len(fence[1])
            marks = {}
        elif fence and inside is not None:
            blocks.append(inside)
            inside, is_next = None, True
        elif inside is not None:
            inside.lines.append(line[indent:] if line[:indent].isspace() else line)
        elif mark := _MARK.fullmatch(line.strip()):
            marks[mark[1]] = mark[2]
        elif line.strip() and not line.startswith(_OTHER_COMMENTS):
            assert not line.startswith("<!--"), f"{path.name}:{number}: no such mark"
            marks, is_next = {}, False
    assert inside is None, f"{path.name}:{inside.line}: the block has no end" if inside else ""
    return blocks


def commands_of(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Yield each command of a console block with the output shown beneath it."""
    command, shown = "", []
    going_on = False
    for line in block.lines:
        if line.startswith("$ "):
            if command:
                yield command, shown
            command, shown = line[2:], []
        elif going_on:
            command += line.removeprefix("> ").strip()
        else:
            assert command, f"line {block.line}: output before a command"
            shown.append(line)
        if going_on := command.endswith("\\") and not shown:
            command = command.removesuffix("\\")
    if command:
        yield command, shown


def masked(line: str) -> str:
    """Return what of a line of output is the same on every machine: no numbers, times, sizes, rules and blanks."""
    for pattern, sign in _MASKS:
        line = pattern.sub(sign, line)
    return " ".join(line.split())


def difference(shown: list[str], printed: list[str]) -> str | None:
    """Say where shown output departs from what was printed.

    ` ...` stands for any lines. A line may be broken where a terminal of 80 columns breaks it.
    """
    wanted = [masked(line) for line in shown if masked(line)]
    there = [line for line in map(masked, printed) if line and not _PROGRESS.fullmatch(line)]
    place, loose = 0, False
    while wanted:
        line = wanted.pop(0)
        if line == "...":
            loose = True
            continue
        if loose:
            starts = (n for n in range(place, len(there)) if _begins(line, there[n]))
            place = next(starts, place)
        while place < len(there) and line != there[place] and wanted and _begins(line, there[place]):
            line = f"{line} {wanted.pop(0)}"
        if place >= len(there) or there[place] != line:
            return f"shown: {line}\nprinted: {there[place] if place < len(there) else '(nothing more)'}"
        place, loose = place + 1, False
    if not loose and place < len(there):
        return f"printed and not shown: {there[place]}"
    return None


def _begins(start: str, line: str) -> bool:
    return f"{line} ".startswith(f"{start} ")

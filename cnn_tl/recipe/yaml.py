"""The written form of a recipe: a small, strict part of YAML 1.2.

PyYAML by itself reads `1e-3` as text, `no` as false and `1:30` as 90, keeps the last of two equal keys, and
expands aliases without end. Here it only splits the text into events; their meaning is decided below.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn

import yaml

from cnn_tl.core.errors import RecipeError, printable

MAX_BYTES = 256 * 1024
MAX_DEPTH = 8
MAX_DIGITS = 40

_NULLS = {"", "~", "null", "Null", "NULL"}
_BOOLEANS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)


def parse(text: str, *, source: str, numbered: bool = True) -> object:
    """Read one YAML document into dicts, lists, text, numbers, booleans and None; no text at all is None.

    Args:
        source: what an error calls the text: a file name, or a flag.
        numbered: whether an error names the line; a flag has only one.

    Raises:
        RecipeError: "SOURCE:LINE: ..." for a text that is not YAML, is too long or too deep, or that uses
            duplicate keys, anchors, aliases, tags, tab indentation, or more than one document.
    """
    return _Reader(text, source, numbered=numbered).document()


def parse_all(text: str, *, source: str) -> tuple[object, dict[str, int], list[tuple[int, str]]]:
    """Read as much of a document as possible.

    Returns:
        What `parse` returns; the line of each key by its dotted name; what `parse` would refuse, with its line.
    """
    reader = _Reader(text, source, numbered=True)
    reader.collects = True
    try:
        value = reader.document()
    except RecipeError:
        value = None
    return value, reader.lines, reader.faults


def dump(value: object) -> str:
    """Write dicts, lists, text, numbers, booleans and None as YAML that `parse` reads back equal."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Reader:
    def __init__(self, text: str, source: str, *, numbered: bool) -> None:
        self.text = text
        self.source = source
        self.numbered = numbered
        self.events: Iterator[yaml.Event] = iter(())
        self.collects = False
        self.faults: list[tuple[int, str]] = []
        self.trail: tuple[str, ...] = ()
        self.lines: dict[str, int] = {}

    def document(self) -> object:
        if len(self.text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
            self.refuse(1, f"longer than {MAX_BYTES // 1024} KiB, which no recipe needs")
        self.refuse_tab_indentation()
        try:
            self.events = yaml.parse(self.text, Loader=yaml.SafeLoader)
            next(self.events)  # the start of the stream
            if isinstance(next(self.events), yaml.StreamEndEvent):
                return None
            value = self.value(next(self.events), depth=0)
            next(self.events)  # the end of the document
            after = next(self.events)
        except yaml.reader.ReaderError as error:
            line = self.text.count("\n", 0, error.position) + 1
            code = error.character if isinstance(error.character, int) else ord(error.character)
            self.refuse(line, f"the character U+{code:04X} has no place in YAML")
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            why = str(error.problem or error.context).replace("'<stream end>'", "the end")
            self.refuse(mark.line + 1 if mark else 1, why)
        except (ValueError, OverflowError) as error:  # what PyYAML raises for impossible escapes and directives
            self.refuse(1, f"not YAML: {error}")
        if not isinstance(after, yaml.StreamEndEvent):
            self.refuse(_line(after), "a second document begins; a recipe is one document")
        return value

    def value(self, event: yaml.Event, depth: int) -> object:
        line = _line(event)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            self.refuse(line, "anchors and aliases (& and *) are not read; write the value out")
        if (tag := getattr(event, "tag", None)) is not None:
            short = printable(tag.replace("tag:yaml.org,2002:", "!!"))[:40]
            self.complain(line, f"tags such as {short} are not read; a recipe is plain data")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if depth == MAX_DEPTH:
            self.refuse(line, f"nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.SequenceStartEvent):
            return self.sequence(depth + 1)
        return self.mapping(depth + 1)

    def sequence(self, depth: int) -> list[object]:
        items = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(event, depth))
        return items

    def mapping(self, depth: int) -> dict[str, object]:
        items: dict[str, object] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = _line(event)
            key = self.value(event, depth)
            if not isinstance(key, str):
                self.refuse(line, f"the key {str(key)[:40]} is not text; put it in quotes if it is meant")
            if key in items:
                self.complain(line, f"the key {printable(key)[:40]} is here twice, first on line {lines[key]}")
            self.trail = (*self.trail, key)
            self.lines.setdefault(".".join(self.trail), line)
            value, before = self.value(next(self.events), depth), items.get(key)
            items[key] = before | value if isinstance(before, dict) and isinstance(value, dict) else value
            self.trail = self.trail[:-1]
            lines[key] = line
        return items

    def scalar(self, event: yaml.ScalarEvent) -> object:
        """Apply the core schema of YAML 1.2 to a plain scalar; whatever stands in quotes is text."""
        text: str = event.value
        if not event.implicit[0]:
            return text
        if text in _NULLS:
            return None
        if text in _BOOLEANS:
            return _BOOLEANS[text]
        if _INTEGER.fullmatch(text):
            if len(text) > MAX_DIGITS:  # beyond thousands of digits int() itself would refuse
                self.complain(_line(event), f"a number of {len(text)} digits")
                return None
            return int(text)
        if _FLOAT.fullmatch(text):
            return float(re.sub(r"\.(?=[a-zA-Z]+$)", "", text) if text[-1].isalpha() else text)
        return text

    def refuse_tab_indentation(self) -> None:
        for number, line in enumerate(self.text.split("\n"), 1):
            content = line.lstrip()
            if content and "\t" in line[: len(line) - len(content)]:
                self.complain(number, "indented with a tab; YAML wants spaces")

    def complain(self, line: int, why: str) -> None:
        """Refuse what can be skipped while the rest is read."""
        if not self.collects:
            self.refuse(line, why)
        self.note(line, why)

    def note(self, line: int, why: str) -> None:
        """Record one fault for each line: later ones mostly follow from the first."""
        if all(line != other for other, _ in self.faults):
            self.faults.append((line, " ".join(why.split())))

    def refuse(self, line: int, why: str) -> NoReturn:
        self.note(line, why)
        place = f"{printable(self.source)}:{line}" if self.numbered else printable(self.source)
        raise RecipeError(f"{place}: {' '.join(why.split())}") from None


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


class _Dumper(yaml.SafeDumper):
    """Quotes text that `parse` would read as a number, and escapes what is not printable."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        # by itself PyYAML folds the rarer line breaks (U+0085, U+2028) into spaces
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{_FLOAT.pattern})$"), list("-+.0123456789"))

"""Print the size of cnn_tl in its own terms: rooms, imports between them, files, lines, functions, circles.

    python tests/structure.py                           # of this checkout
    PYTHONPATH=../older python tests/structure.py       # of another one

A room is a folder of cnn_tl, or a file that lies loose in it; an arrow goes from one room to another that it imports.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from test_architecture import ABOVE_ALL, MODULES, ROOT, imports_of, room_of

Graph = Mapping[str, set[str]]


def module_graph() -> dict[str, set[str]]:
    """Return which modules of cnn_tl each one imports; the package itself, which imports lazily, is left out."""
    found = {".".join(("cnn_tl", *path.with_suffix("").parts)).removesuffix(".__init__"): path for path in MODULES}
    del found["cnn_tl"]
    return {
        name: {other if other in found else other.rpartition(".")[0] for other in imports_of(path)} & set(found)
        for name, path in found.items()
    }


def room_graph() -> dict[str, set[str]]:
    """Return which other rooms each one imports."""
    rooms: dict[str, set[str]] = {}
    for path in MODULES:
        room = path.parts[0].removesuffix(".py")
        if room not in ABOVE_ALL:
            rooms.setdefault(room, set()).update(map(room_of, imports_of(path)))
    return {room: others & set(rooms) - {room} for room, others in rooms.items()}


def in_circles(graph: Graph) -> set[str]:
    """Return the nodes that reach themselves."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [*graph[start]]
        while ahead:
            if (node := ahead.pop()) not in seen:
                seen.add(node)
                ahead += graph[node]
        return seen

    return {node for node in graph if node in reached(node)}


def functions() -> Iterator[tuple[int, str]]:
    """Yield the lines of each function, decorators and docstring included, and where it is."""
    for path in MODULES:
        for node in ast.walk(ast.parse((ROOT / path).read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                yield (node.end_lineno or first) - first + 1, f"{path.as_posix()}: {node.name}"


def main() -> None:
    """Print the table."""
    rooms, modules, lengths = room_graph(), module_graph(), sorted(functions(), reverse=True)
    lines = {path: (ROOT / path).read_text("utf-8").count("\n") for path in MODULES}
    longest = max(MODULES, key=lambda path: lines[path])
    fullest, most = Counter(path.parent for path in MODULES if path.parent != Path()).most_common(1)[0]
    rows = {
        "rooms": len(rooms),
        "arrows between rooms": sum(map(len, rooms.values())),
        "rooms in circles": len(in_circles(rooms)),
        "files in circles": len(in_circles(modules)),
        "files": len(MODULES),
        "lines": f"{sum(lines.values()):,}",
        "longest file": f"{lines[longest]} ({longest.as_posix()})",
        "files over 300 lines": sum(count > 300 for count in lines.values()),
        "files under 60 lines": sum(count < 60 for count in lines.values()),
        "fullest folder": f"{most} files ({fullest.as_posix()})",
        "functions": f"{len(lengths):,}",
        "longest function": f"{lengths[0][0]} ({lengths[0][1]})",
        "functions over 50 lines": sum(count > 50 for count, _ in lengths),
    }
    for name, value in rows.items():
        print(f"{name:<25}{value}")  # noqa: T201


if __name__ == "__main__":
    main()

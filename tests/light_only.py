"""Run command lines in a process that finds only the packages of requirements-light.txt and what they depend on.

`python light_only.py MODULES LINES`, both JSON: the modules that are hidden, and the lines, each a list of words. The
last line that each writes to stdout is its exit code.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIST = ROOT / "cnn_tl" / "requirements-light.txt"


def listed() -> list[str]:
    """Return the requirements in the file."""
    return [line for line in LIST.read_text("utf-8").splitlines() if line and not line.startswith("#")]


def run(*lines: Sequence[object], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run command lines in one process in this folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command(*lines), cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


def command(*lines: Sequence[object]) -> list[str]:
    """Return the command of a process that runs command lines; it finds cnn_tl by PYTHONPATH."""
    words = [[str(word) for word in line] for line in lines]
    return [sys.executable, __file__, json.dumps(_hidden()), json.dumps(words)]


@cache
def _hidden() -> list[str]:
    """Return the installed modules that no package of the list, or that one of them needs, brings along."""
    wanted, found = [_name(line) for line in listed()], {"cnn-tl"}
    while wanted:
        name = wanted.pop()
        if name not in found:
            found.add(name)
            wanted += map(_name, _requirements(name))
    owners = importlib.metadata.packages_distributions()
    return sorted(module for module, names in owners.items() if not found.intersection(map(_name, names)))


def _requirements(name: str) -> list[str]:
    from packaging.requirements import Requirement

    try:
        texts = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:  # of another platform
        return []
    needed = map(Requirement, texts)
    return [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]


def _name(requirement: str) -> str:
    match = re.match(r"[\w.-]+", requirement)
    assert match is not None, requirement
    return re.sub(r"[-_.]+", "-", match[0]).lower()


class Without:
    """A finder that does not find some modules, nor their distributions."""

    def __init__(self, finder: Any, hidden: Iterable[str]) -> None:
        self._finder, self._hidden = finder, frozenset(hidden)

    def find_spec(self, name: str, *rest: Any) -> Any:
        return None if name.partition(".")[0] in self._hidden else self._finder.find_spec(name, *rest)

    def find_distributions(self, *context: Any) -> Iterable[Any]:
        find = getattr(self._finder, "find_distributions", lambda *context: ())
        return (one for one in find(*context) if _name(one.name).replace("-", "_") not in self._hidden)


def _main() -> None:
    hidden, lines = map(json.loads, sys.argv[1:])
    sys.meta_path[:] = [Without(finder, hidden) for finder in sys.meta_path]
    from cnn_tl.cli import app

    for line in lines:
        code = app.run(line)
        print(code, flush=True)  # noqa: T201 - read by `run`'s caller


if __name__ == "__main__":
    _main()

"""The commands of README.md and the guides are run, and print what stands beneath them.

CONTRIBUTING.md says how a document is written; `conftest.py` says what lies in the folder where it is run.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import traceback
from pathlib import Path
from typing import Any

import pytest
from documents import Block, blocks_of, commands_of, difference

from cnn_tl import guides, recipe
from cnn_tl.cli import app

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "cnn_tl" / "guides").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", *GUIDES]
SHOWN = {"text", "json"}
"""Languages of blocks that are neither run nor checked."""

_FOR_BASH = re.compile(r"[|<>;&$`]|^(?!cnn-tl )")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_what_a_document_shows_happens(path: Path, scratch: Path) -> None:
    _run_document(path, [block for block in blocks_of(path) if "needs" not in block.marks], scratch)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("```console\n$ cnn-tl --version\nversion\n```", r"shown: version\s+printed: cnn-tl #"),
        ("```console\n$ cnn-tl guide nothing\n```", r"exit code 2, not 0:\s+error: there is no guide 'nothing'"),
        ("<!-- exit: 3 -->\n```console\n$ cnn-tl guide nothing\n```", "exit code 2, not 3"),
        ("```console\n$ echo a | cat\nb\n```", r"shown: b\s+printed: a"),
        ("```python\nprint(1)\nnothing\n```", "NameError: name 'nothing' is not defined"),
        ("```python\nprint('a')\n```\n\n```text\nb\n```", r"shown: b\s+printed: a"),
        ("```yaml\nmode: freeze\nsped: 1\n```", "sped"),
        ("```sh\nls\n```", "a block of sh is not run"),
    ],
)
def test_what_does_not_happen_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.md"
    path.write_text(text)
    with pytest.raises(AssertionError, match=rf"(?s)a\.md:\d+: .*{fault}"):
        _run_document(path, blocks_of(path), tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_what_a_document_shows_of_other_data_happens(path: Path, scratch: Path, shared: Path) -> None:
    """Run also what needs a data set that is not shipped."""
    blocks = blocks_of(path)
    needed = {block.marks["needs"] for block in blocks if "needs" in block.marks}
    if not needed:
        pytest.skip("it needs none")
    for name in needed:
        (scratch / name).symlink_to(shared / "data" / name)
    _run_document(path, blocks, scratch)


def _run_document(path: Path, blocks: list[Block], folder: Path) -> None:
    faults: list[str] = []
    names: dict[str, Any] = {"__name__": "__main__"}
    before: Block | None = None
    said = ""
    for block in blocks:
        if file := block.marks.get("file"):
            (folder / file).write_text(block.text, "utf-8")
        if "not run" in block.marks:
            found: list[str] = []
        elif block.language == "console":
            found = _faults_of_commands(block)
        elif block.language == "python":
            said, found = _run_python(block, names)
        elif block.language == "yaml":
            found = _faults_of_recipe(block, folder)
        elif block.language == "text" and _is_output(block, before):
            fault = difference(block.lines, said.splitlines())
            found = [f"{fault}\nall that was printed:\n{said}"] if fault else []
        elif block.language in SHOWN:
            found = []
        else:
            found = [f"a block of {block.language or 'no language'} is not run: say why, or call it console"]
        faults += [f"{path.name}:{block.line}: {fault}" for fault in found]
        before = block
    assert not faults, "\n".join(faults)


def _is_output(block: Block, before: Block | None) -> bool:
    """Say whether a text is what the block of Python just above it prints."""
    return block.is_next and before is not None and before.language == "python" and "not run" not in before.marks


def _run_python(block: Block, names: dict[str, Any]) -> tuple[str, list[str]]:
    """Run a block; return what it prints and what went wrong."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(block.text, f"line {block.line}", "exec"), names)
    except Exception:  # noqa: BLE001 - whatever a reader would meet
        return printed.getvalue(), [traceback.format_exc()]
    return printed.getvalue(), []


def _faults_of_recipe(block: Block, folder: Path) -> list[str]:
    source = folder / "a recipe of this document.yaml"
    source.write_text(block.text, "utf-8")
    return [str(fault) for fault in recipe.faults(str(source))]


def _faults_of_commands(block: Block) -> list[str]:
    faults = []
    commands = list(commands_of(block))
    for number, (command, shown) in enumerate(commands, 1):
        wanted = int(block.marks.get("exit", 0)) if number == len(commands) else 0
        code, printed = _run(command)
        if code != wanted:
            faults.append(f"$ {command}\nexit code {code}, not {wanted}:\n{printed}")
        elif shown and "output" not in block.marks and (fault := difference(shown, printed.splitlines())):
            faults.append(f"$ {command}\n{fault}\nall that was printed:\n{printed}")
    return faults


def _run(command: str) -> tuple[int, str]:
    """Run a command, in this process where it needs no shell; return its exit code and all that it prints."""
    if _FOR_BASH.search(command):
        done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, _here(done.stdout)
    words = []
    for word in shlex.split(command)[1:]:
        found = sorted(map(str, Path().glob(word))) if re.search(r"[*?\[]", word) else []
        words += found or [word]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = app.run(words)
    return code, _here(printed.getvalue())


def _here(text: str) -> str:
    """Return what was printed with the working directory's own path left out, for that is another on each machine."""
    return text.replace(f"{Path.cwd()}/", "")


@pytest.mark.parametrize("topic", guides.topics())
def test_a_guide_opens_with_its_title_and_one_line(topic: str) -> None:
    guide = guides.read(topic)
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", topic)
    assert guide.text.startswith(f"# {guide.title}\n\n{guide.summary}\n")
    assert 0 < len(guide.summary) <= 100
    assert guide.title
    assert guide.summary.endswith(".")


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_lines_fit(path: Path) -> None:
    prose = [line for line in path.read_text("utf-8").splitlines() if not line.startswith("|")]
    assert [line for line in prose if len(line) > 120] == []
    code = [line for block in blocks_of(path) for line in block.lines]
    assert [line for line in code if len(line) > (78 if path in GUIDES else 80)] == []  # a terminal indents by 2


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        linked = path.parent / file if file else path
        assert linked.is_file(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", linked.read_text("utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in headings], target


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 220


def test_each_guide_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"cnn_tl/guides/([a-z-]+)\.md", (ROOT / "README.md").read_text("utf-8")))
    assert linked == set(guides.topics())

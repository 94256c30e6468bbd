"""What is shipped is complete, and README and the guides speak of what exists."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import typer

from cnn_tl import guides, recipe
from cnn_tl.cli.app import app
from cnn_tl.networks.graph import shipped
from cnn_tl.pages.page import TEMPLATES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = {"README": README} | {topic: guides.read(topic).text for topic in guides.topics()}
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_the_wheel_carries_recipes_guides_and_graphs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {f"cnn_tl/_recipes/{name}.yaml" for name in recipe.names()} <= set(names)
    assert {f"cnn_tl/guides/{topic}.md" for topic in guides.topics()} <= set(names)
    assert {f"cnn_tl/serving/page/{name}" for name in ("index.html", "page.css", "page.js", "icon.svg")} <= set(names)
    assert {path.relative_to(ROOT).as_posix() for path in TEMPLATES.rglob("*.*")} <= set(names)
    assert {"cnn_tl/data/digits.npz", *_graphs()} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "recipes"))]


def _graphs() -> set[str]:
    folder = shipped.FOLDER.relative_to(ROOT).as_posix()
    return {f"{folder}/{name}.{suffix}" for name in shipped.names() for suffix in ("json", "onnx")}


def test_the_source_distribution_carries_what_the_wheel_is_made_of(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert {"cnn_tl/requirements-light.txt", "cnn_tl/data/digits.npz", "recipes/freeze.yaml", *_graphs()} <= names


def test_readme_names_every_command() -> None:
    documented = set(re.findall(r"cnn-tl ([a-z]+(?:-[a-z]+)*)", README))
    assert set(COMMANDS) == documented


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_names_only_flags_that_exist(name: str) -> None:
    known = {"--upgrade", "--no-deps", "--logdir", "--backend-store-uri"}  # of pip, tensorboard, mlflow
    known |= {"--install-completion", "--show-completion", "--help", "--version"}  # typer's, and the program's own
    groups = [command for command in COMMANDS.values() if hasattr(command, "commands")]
    for command in [*COMMANDS.values(), *(inner for group in groups for inner in group.commands.values())]:
        known |= {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
    torchruns = r"(srun [^`]*?)?torchrun [^`]*?-m cnn_tl|`--(max-restarts|nnodes|rdzv-id)[^`]*`"
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", re.sub(torchruns, "", DOCUMENTS[name])))
    assert named <= known


@pytest.mark.parametrize("name", recipe.names())
def test_each_recipe_opens_with_its_command_and_what_to_expect(name: str) -> None:
    lines = recipe.text(name).splitlines()
    assert lines[0] == f"# cnn-tl train DATA --recipe {name}"
    assert re.match(r"# expect: .*\d\.\d{3}.* s", lines[2]), lines[2]

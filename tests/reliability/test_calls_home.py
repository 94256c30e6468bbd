"""Nothing calls home: no connection except to our own server, no file outside the run, the cache and /tmp."""

from __future__ import annotations

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import every_command
import pytest

import cnn_tl
from cnn_tl.core import telemetry

ROOT = Path(cnn_tl.__file__).parents[1]
IMPORTS = re.compile(r"\b(?:import|from|importorskip\(|import_module\(|__import__\()[\s\"']*(onnxruntime|openvino)\b")
"""Imports of packages with telemetry that bypass `core/telemetry.py`."""


def code_in(path: Path) -> Iterator[str]:
    """Yield the lines of code: Python without comments and docstrings, Markdown's fenced blocks."""
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        yield from re.findall(r"```python\n(.*?)```", text, re.S)
        return
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body = node.body[1:] or [ast.Pass()]
    yield ast.unparse(tree)


def test_one_place_imports_what_reports_to_its_maker() -> None:
    paths = [*(ROOT / "cnn_tl").rglob("*.py"), *Path(__file__).parents[1].rglob("*.py")]
    allowed = {ROOT / "cnn_tl" / "core" / "telemetry.py", Path(__file__)}
    found = {path for path in paths if any(IMPORTS.search(code) for code in code_in(path))}
    assert sorted(found - allowed) == []
    assert found >= allowed


@pytest.mark.parametrize(
    "code",
    [
        "import onnxruntime",
        "from onnxruntime.quantization import x",
        "import openvino as ov",
        "pytest.importorskip('openvino')",
        "importlib.import_module('onnxruntime.capi')",
    ],
)
def test_what_that_test_would_find(code: str) -> None:
    assert IMPORTS.search(code)


def test_what_we_tell_others_to_write_forbids_it_first() -> None:
    documents = [ROOT / "README.md", *(ROOT / "cnn_tl" / "guides").glob("*.md")]
    blocks = [code for path in documents for code in code_in(path) if re.search(r"import.*\bonnxruntime\b", code)]
    assert blocks
    for code in blocks:
        assert re.search(r'environ\["ORT_DISABLE_TELEMETRY"\] = "1".*import.*\bonnxruntime\b', code, re.S)


@pytest.mark.parametrize("name", telemetry.NO_TELEMETRY)
@pytest.mark.parametrize(("users", "kept"), [(None, False), ("", False), ("0", True), ("false", True)])
def test_a_choice_of_the_user_stays(monkeypatch: pytest.MonkeyPatch, name: str, users: str | None, kept: bool) -> None:
    monkeypatch.delenv(name, raising=False)
    if users is not None:
        monkeypatch.setenv(name, users)
    telemetry.forbid_telemetry()
    assert os.environ[name] == (users if kept else telemetry.NO_TELEMETRY[name])


def test_importing_us_is_enough_for_what_others_import_and_for_children() -> None:
    names = sorted(telemetry.NO_TELEMETRY)
    clean = {name: value for name, value in os.environ.items() if name not in names}
    ask = f"import os; print([os.environ.get(name) for name in {names}])"
    code = f"import cnn_tl, subprocess, sys; subprocess.run([sys.executable, '-c', {ask!r}], check=True)"
    done = subprocess.run([sys.executable, "-c", code], env=clean | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert ast.literal_eval(done.stdout.decode()) == [telemetry.NO_TELEMETRY[name] for name in names], done.stderr


def test_openvino_does_not_find_its_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino_telemetry.py").write_text("raise SystemExit('reports its import')")
    stub = "try:\n    import openvino_telemetry\nexcept ImportError:\n    stub = True\n"
    (tmp_path / "openvino.py").write_text(stub)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    assert telemetry.openvino().stub
    assert "openvino_telemetry" not in sys.modules
    monkeypatch.delitem(sys.modules, "openvino")


@pytest.fixture
def work(tmp_path: Path, make_images: Callable[..., Path], tiny_weights: Path) -> Path:
    make_images(tmp_path / "work" / "data", {"ash": 12, "birch": 12})
    shutil.copy(tiny_weights, tmp_path / "work" / "tiny.safetensors")
    return tmp_path / "work"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [0, pytest.param(15, marks=pytest.mark.soak)])
def test_under_an_empty_home(work: Path, tmp_path: Path, seconds: float) -> None:
    """Run the commands with an empty home folder; onnxruntime's telemetry would connect after about ten seconds."""
    home, cache, trace = tmp_path / "home", tmp_path / "cache", tmp_path / "trace"
    home.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, every_command.__file__, str(work), str(port), str(seconds)]
    silenced = {*telemetry.NO_TELEMETRY, "MPLCONFIGDIR", "CI", "DO_NOT_TRACK"}
    environment = {k: v for k, v in os.environ.items() if k not in silenced and not k.startswith("XDG_")}
    environment |= {"HOME": str(home), "CNN_TL_CACHE": str(cache), "PYTHONPATH": str(ROOT)}
    traced = _tracer(trace)
    done = subprocess.run([*traced, *command], cwd=work, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    assert sorted(home.rglob("*")) == []
    made = {path.name for path in work.iterdir()} - {"data", "tiny.safetensors", every_command.CONNECTIONS}
    assert made <= {"run", "run-tuned", "why", "rates.png"}
    own = {"127.0.0.1", f"('127.0.0.1', {port})"}
    assert set((work / every_command.CONNECTIONS).read_text().splitlines()) == own
    if traced:
        calls = trace.read_text(errors="replace").splitlines()
        connected = [call for call in calls if "sin_addr" in call or "sin6_addr" in call]
        assert [call for call in connected if f"htons({port})" not in call] == []
        assert connected, "the tracer has seen our own requests"
        places = (str(work), str(cache), tempfile.gettempdir(), "/dev/", "/proc/")
        elsewhere = {path for path in written(calls, work) if not path.startswith(places)}
        assert {path for path in elsewhere if "__pycache__" not in path} == set()


def _tracer(trace: Path) -> list[str]:
    """Return a command prefix that traces system calls, native code included; empty if no tracer is installed."""
    calls = "connect,sendto,sendmsg,sendmmsg,openat,mkdir,mkdirat,rename,renameat,renameat2"
    command = ["strace", "-f", "--seccomp-bpf", "-qq", "-s", "4096", "-o", str(trace), "-e", f"trace={calls}"]
    works = shutil.which("strace") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if works else []


def written(calls: list[str], cwd: Path) -> set[str]:
    """Return the absolute paths of files that were created or opened for writing."""
    found = set()
    for call in calls:
        quoted = re.findall(r'"((?:[^"\\]|\\.)*)"', call)
        opens = "openat(" in call and not re.search(r"O_WRONLY|O_RDWR|O_CREAT", call)
        if quoted and " = -1 " not in call and "connect(" not in call and "send" not in call and not opens:
            found.add(os.path.normpath(cwd / quoted[-1]))
    return found


def test_what_counts_as_written() -> None:
    calls = [
        '7 openat(AT_FDCWD, "/etc/hosts", O_RDONLY|O_CLOEXEC) = 3',
        '7 openat(AT_FDCWD, "/home/a/.cache/x", O_WRONLY|O_CREAT, 0600) = 3',
        '7 openat(AT_FDCWD, "/home/a/denied", O_RDWR) = -1 EACCES (Permission denied)',
        '7 mkdir("/home/a/.config", 0777) = 0',
        '7 rename("/w/.tmp", "b") = 0',
    ]
    assert written(calls, Path("/w")) == {"/home/a/.cache/x", "/home/a/.config", "/w/b"}

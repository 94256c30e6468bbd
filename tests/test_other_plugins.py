"""The suite beside pytest plug-ins that warn: their warnings pass, ours stay errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

PLUGIN = """
import warnings

import pytest

warnings.warn("while it is imported", stacklevel=1)


def pytest_configure(config):
    warnings.warn("while it is configured", pytest.PytestWarning, stacklevel=1)


def pytest_runtest_setup(item):
    warnings.warn("before a test", DeprecationWarning, stacklevel=1)


def pytest_pycollect_makeitem():
    warnings.warn("while tests are collected", UserWarning, stacklevel=1)


def pytest_sessionfinish(session):
    warnings.warn("at the end", UserWarning, stacklevel=1)
"""
TESTS = {
    "test_quiet.py": "def test_quiet(): pass",
    "test_loud.py": "import warnings\ndef test_loud(): warnings.warn('ours', DeprecationWarning)",
    "test_at_import.py": "import warnings\nwarnings.warn('ours', UserWarning)\ndef test_never(): pass",
    "test_allowed.py": "import warnings, pytest\n@pytest.mark.filterwarnings('ignore:ours')\n"
    "def test_allowed(): warnings.warn('ours')",
    "test_allowed_in_the_file.py": "import warnings, pytest\npytestmark = pytest.mark.filterwarnings('ignore')\n"
    "def test_allowed(): warnings.warn('ours')",
}


def test_beside_a_plugin_that_warns_at_every_turn(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "loud-1.0.dist-info").mkdir(parents=True)
    (site / "loud-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n")
    (site / "loud-1.0.dist-info" / "entry_points.txt").write_text("[pytest11]\nloud = loud_plugin.hooks\n")
    (site / "loud_plugin").mkdir()
    (site / "loud_plugin" / "__init__.py").touch()
    (site / "loud_plugin" / "hooks.py").write_text(PLUGIN)
    for name, code in TESTS.items():
        (tmp_path / name).write_text(code + "\n")
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path)]
    flags = ["-p", "conftest", "-p", "no:cacheprovider", "-n", "0", "-q", "-rA", "--continue-on-collection-errors"]
    path = os.pathsep.join(map(str, (site, ROOT / "tests", ROOT)))
    environment = {"PYTHONPATH": path, "PATH": "", "HOME": str(tmp_path)}
    done = subprocess.run([*command, *flags, str(tmp_path)], capture_output=True, text=True, env=environment)
    found = set(re.findall(r"^(PASSED|FAILED|ERROR) (?:\S*/)?(test_\w+)\.py", done.stdout, re.M))
    assert found == {
        ("PASSED", "test_quiet"), ("PASSED", "test_allowed"), ("PASSED", "test_allowed_in_the_file"),
        ("FAILED", "test_loud"), ("ERROR", "test_at_import"),
    }, done.stdout + done.stderr  # fmt: skip

"""Where matplotlib keeps its list of fonts, and what it says about that."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_tl.plots import load_matplotlib

FONTS = "matplotlib.font_manager"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, of somebody who has set nothing, before matplotlib is imported."""
    for name in ("MPLCONFIGDIR", "MATPLOTLIBRC", "XDG_CONFIG_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setitem(sys.modules, FONTS, None)
    monkeypatch.delitem(sys.modules, FONTS)
    return tmp_path


def folder_at_import(monkeypatch: pytest.MonkeyPatch) -> str | None:
    """Return MPLCONFIGDIR as matplotlib finds it."""
    seen: list[str | None] = []

    def note(name: str) -> None:
        assert name == FONTS
        assert not logging.getLogger("matplotlib").isEnabledFor(logging.WARNING)
        seen.append(os.environ.get("MPLCONFIGDIR"))

    level, before = logging.getLogger("matplotlib").level, os.environ.get("MPLCONFIGDIR")
    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", note)
        load_matplotlib.load_matplotlib()
    assert (logging.getLogger("matplotlib").level, os.environ.get("MPLCONFIGDIR")) == (level, before)
    [folder] = seen
    return folder


def test_in_our_cache(home: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder_at_import(monkeypatch) == str(own_cache / "matplotlib")


def test_where_the_user_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLCONFIGDIR", "elsewhere")
    assert folder_at_import(monkeypatch) == "elsewhere"


@pytest.mark.parametrize("place", [".config/matplotlib", ".matplotlib", "xdg/matplotlib"])
def test_where_the_user_has_settings(home: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    if "xdg" in place:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
    (home / place).mkdir(parents=True)
    assert folder_at_import(monkeypatch) is not None
    (home / place / "matplotlibrc").touch()
    assert folder_at_import(monkeypatch) is None


def test_without_any_folder_it_says_nothing(home: Path) -> None:
    root = str(Path(load_matplotlib.__file__).parents[2])
    nowhere = {"HOME": "/proc/nope", "CNN_TL_CACHE": "/proc/nope/cache", "PYTHONPATH": root}
    code = "from cnn_tl.plots.figure import new_figure; new_figure(1)"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | nowhere, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")

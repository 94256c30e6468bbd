"""What is not installed gets one line with the command that adds it; what is a bug stays one."""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError

import pytest

from cnn_tl.core import packages
from cnn_tl.core.packages import missing_line


def absent(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    "error",
    [
        absent("cnn_tl.no_such"),
        absent("tomllib.no_such"),
        absent("numpy.no_such"),
        ImportError("cannot import name 'x'", name="absent"),
        ModuleNotFoundError("no name"),
    ],
    ids=str,
)
def test_what_is_no_missing_package(error: ImportError) -> None:
    assert missing_line(error) is None


def test_a_package_that_is_not_ours_is_added_by_its_name() -> None:
    assert missing_line(absent("no_such.part")) == "no-such is needed here and not installed: pip install no-such"


@pytest.mark.parametrize(
    ("there", "line"),
    [
        (("torch", "timm"), "pyyaml is needed here and not installed: pip install cnn-tl (adds it)"),
        (("timm",), "pyyaml is needed here and not installed: pip install cnn-tl (adds it and 1 more that is missing)"),
    ],
)
def test_one_of_ours_is_added_with_the_rest(monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], line: str) -> None:
    def distribution(name: str) -> None:
        if name not in there:
            raise PackageNotFoundError(name)

    wanted = ["PyYAML>=6.0", "torch>=2.10", "timm", "pyarrow>=20; extra == 'parquet'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)
    monkeypatch.setattr("importlib.metadata.distribution", distribution)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(packages.sys, "modules", {})
    assert missing_line(absent("yaml")) == line

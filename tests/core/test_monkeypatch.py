from __future__ import annotations

import importlib
import sys
from types import ModuleType, SimpleNamespace

import pytest

from cnn_tl.core.monkeypatch import attribute_replaced, modules_replaced


def test_an_attribute_is_restored_also_after_an_error() -> None:
    owner = SimpleNamespace(limit=1)
    seen = []
    with pytest.raises(ValueError, match="invalid literal"), attribute_replaced(owner, "limit", 2):
        seen.append(owner.limit) or int("no number")
    assert (seen, owner.limit) == ([2], 1)


def test_an_inherited_attribute_is_not_left_on_the_owner() -> None:
    class Layer:
        def forward(self) -> int:
            return 1

    layer = Layer()
    with attribute_replaced(layer, "forward", lambda: 2):
        assert layer.forward() == 2
    assert (layer.forward(), vars(layer)) == (1, {})


def test_an_attribute_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no_such"), attribute_replaced(SimpleNamespace(), "no_such", 2):
        pass


def test_modules_are_replaced_hidden_and_restored() -> None:
    real, stand_in = sys.modules["json"], ModuleType("json")
    with modules_replaced({"json": stand_in, "no_such_module": ModuleType("no_such_module")}):
        assert importlib.import_module("json") is stand_in
        importlib.import_module("no_such_module")
    assert importlib.import_module("json") is real
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module")
    with modules_replaced({"json": None}), pytest.raises(ModuleNotFoundError):
        importlib.import_module("json")


def test_a_stand_in_that_the_block_replaces_is_left_alone() -> None:
    loaded = ModuleType("no_such_module")
    try:
        with modules_replaced({"no_such_module": ModuleType("no_such_module")}):
            sys.modules["no_such_module"] = loaded
        assert sys.modules["no_such_module"] is loaded
    finally:
        del sys.modules["no_such_module"]

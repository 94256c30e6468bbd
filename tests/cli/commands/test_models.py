from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cnn_tl.networks.pretrained import hub


@pytest.fixture(autouse=True)
def nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cached", lambda cfg: None)


def test_table(cli: Callable[..., Any]) -> None:
    done = cli("models", "tf_efficientnet_lite[03]")
    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines() if "lite" in line]
    assert rows == [
        ["tf_efficientnet_lite0", "4.7", "M", "0.39", "224", "px", "74.8%", "here", "(package)"],
        ["tf_efficientnet_lite3", "8.2", "M", "1.61", "300", "px", "79.8%", "download"],
    ]
    assert done.err.startswith("ImageNet: top-1 accuracy of the weights as timm reports it, at its own test size")
    assert cli("models", "dpn48b").err == ""


def test_says_how_many_more(cli: Callable[..., Any]) -> None:
    done = cli("models", "resnet18", "--limit", 2)
    assert done.code == 0
    assert done.err.splitlines()[-1] == "3 more match; narrow the query or raise --limit"


def test_here(cli: Callable[..., Any]) -> None:
    done = cli("models", "--here", "--json")
    found = json.loads(done.out)
    assert found[0] == {
        "name": "tf_efficientnet_lite0",
        "parameters": 4652008,
        "input_size": 224,
        "weights": "package",
        "top1": 74.83,
        "multiply_adds": 385187552,
        "here": True,
    }
    assert all(row["here"] for row in found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnt18"], "error: no model matches 'resnt18'; did you mean resnet18 or resnet18d or skresnet18?\n"),
        (["dpn48", "--here"], "error: none of the models that match 'dpn48' (1) has weights here; leave out --here\n"),
        (["dpn48", "--limit", "0"], "error: Invalid value for '--limit': "),
    ],
)
def test_refusals(cli: Callable[..., Any], arguments: list[str], message: str) -> None:
    done = cli("models", *arguments)
    assert done.code == 2
    assert done.err.startswith(message)
    assert done.out == ""

"""Which tier has room, by the memory that is there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from cnn_tl.cache.multi_shape import MemoryBudget
from cnn_tl.core.processes import World
from cnn_tl.recipe import Recipe
from cnn_tl.training.context import Run
from cnn_tl.training.image_store import ImageStore
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.sources import tiers

GIB = 2**30


def run(sources: str = "auto", **sections: Mapping[str, Any]) -> Run:
    tree = {"mode": "finetune", "run": {"sources": sources}, **sections}
    return Run(Recipe.model_validate(tree).resolve(), RunFolder(Path("run")))


@pytest.mark.parametrize(
    ("sources", "device", "drawn"),
    [("auto", "cpu", False), ("auto", "cuda", True), ("auto", "mps", True), ("threads", "cuda", False),
     ("device", "cpu", True), ("decode", "cpu", True)],
)  # fmt: skip
def test_a_gpu_draws_views_and_a_cpu_if_asked(
    monkeypatch: pytest.MonkeyPatch, sources: str, device: str, drawn: bool
) -> None:
    monkeypatch.setattr(tiers, "agrees", lambda device, settings: True)
    assert tiers.draws_on_device(run(sources), torch.device(device)) == drawn


def test_mps_draws_views_only_if_it_computes_those_of_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiers, "agrees", lambda device, settings: False)
    assert not tiers.draws_on_device(run(), torch.device("mps"))
    assert tiers.draws_on_device(run("device"), torch.device("mps")), "it was asked for"


def test_where_each_image_has_one_view_none_is_drawn() -> None:
    seen_once = run(model={"freeze": "head"}, features={"views": 1})
    assert not tiers.draws_on_device(seen_once, torch.device("cuda"))


@pytest.mark.parametrize(
    ("sources", "nbytes", "left", "kept", "tier"),
    [
        ("auto", 3 * GIB, 0, True, "device"),
        ("auto", 5 * GIB, 6 * GIB, True, "pinned"),
        ("auto", 5 * GIB, 4 * GIB, True, "disk"),
        ("auto", 5 * GIB, 4 * GIB, False, "decode"),
        ("pinned", 1 * GIB, 2 * GIB, True, "pinned"),
        ("disk", 1, 2 * GIB, True, "disk"),
        ("decode", 1, 2 * GIB, True, "decode"),
    ],
)
def test_the_first_tier_with_room_is_planned(
    monkeypatch: pytest.MonkeyPatch, sources: str, nbytes: int, left: int, kept: bool, tier: str
) -> None:
    """Of the 10 GiB that are free on the device, sources may take 4."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (9 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * GIB)
    store = cast(ImageStore, SimpleNamespace(memory=MemoryBudget(left), are_kept=kept))
    assert tiers.expected_tier(run(sources), store, nbytes, torch.device("cuda")) == tier


@pytest.mark.parametrize(("processes", "gpus", "share"), [(1, 1, 1), (4, 1, 4), (4, 4, 1), (3, 2, 2)])
def test_processes_share_the_memory_of_a_gpu(
    monkeypatch: pytest.MonkeyPatch, processes: int, gpus: int, share: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GIB, 80 * GIB))
    for name in ("memory_reserved", "memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda device: 0)
    found = tiers.most_on_device(torch.device("cuda"), World(local_size=processes))
    assert found == int(tiers.SHARE * 10 * GIB) // share

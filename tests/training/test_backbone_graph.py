"""All processes of a run use the graph that the first one has, whatever is cached on their machines."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cnn_tl.networks.info import Remembered
from cnn_tl.training import backbone_graph

Found = tuple[bytes | None, str | None]


class World:
    """Stands for the processes of a run, of which another one is the first, with what it has found."""

    def __init__(self, firsts: Found | None) -> None:
        self.is_alone, self._firsts, self.asked = firsts is None, firsts, 0

    def first(self, compute: Callable[[], Found]) -> Found:
        self.asked += 1
        return self._firsts or compute()


def found_by(world: World, known: Found) -> Found:
    network: Any = SimpleNamespace(
        has_agreed_graph=False, remembered=Remembered(cast(Any, None), None, {}, None, *known)
    )
    backbone_graph.find_graph(cast(Any, SimpleNamespace(world=world)), cast(Any, None), network)
    return network.remembered.graph, network.remembered.why_torch


@pytest.mark.parametrize("known", [(b"own", None), (None, "too slow here"), (None, None)])
@pytest.mark.parametrize("firsts", [(b"first", None), (None, "too slow there")])
def test_the_first_process_decides(known: Found, firsts: Found) -> None:
    """Those that know a graph take part too, or the others would wait for them."""
    world = World(firsts)
    assert found_by(world, known) == firsts
    assert world.asked == 1


def test_alone_a_known_graph_is_used_and_an_unknown_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone_graph, "_made", lambda *_: (b"made", None))
    assert found_by(World(None), (b"own", None)) == (b"own", None)
    assert found_by(World(None), (None, "slow")) == (None, "slow")
    assert found_by(World(None), (None, None)) == (b"made", None)

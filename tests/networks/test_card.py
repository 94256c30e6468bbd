"""A remembered network is used while it is the same, and never otherwise."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cnn_tl import files
from cnn_tl.errors import ArtefactError
from cnn_tl.networks import backbone, bundle, card, weights
from cnn_tl.networks.backbone import Network
from cnn_tl.networks.card import Remembered

TINY = "test_resnet"


@pytest.fixture
def network(tiny_weights: Path, tmp_path: Path) -> Network:
    mine = tmp_path / "mine.safetensors"
    shutil.copy(tiny_weights, mine)
    source = weights.locate(TINY, mine)
    return backbone.build(TINY, source, num_classes=3, image_size=64, seed=0)


@pytest.fixture
def learned(network: Network) -> Remembered:
    return backbone.describe(network, backbone.require_linear_classifier(network))


def test_a_card_says_what_the_network_is(network: Network, learned: Remembered) -> None:
    model = network.model
    head = sum(p.numel() for p in model.fc.parameters())  # type: ignore[union-attr]
    assert learned.card.num_features == model.num_features
    assert learned.card.backbone_parameters == sum(p.numel() for p in model.parameters()) - head
    assert (learned.card.classifier, learned.card.convolution) == ("fc", False)
    assert learned.tensors().keys() | {"fc.weight", "fc.bias"} == model.state_dict().keys()


def test_what_is_recalled_is_what_was_remembered(learned: Remembered, tmp_path: Path) -> None:
    folder = card.folder_of(tmp_path, TINY, learned.source, 64)
    assert card.recall(folder) is None
    card.remember(folder, learned)
    recalled = card.recall(folder)
    assert recalled is not None
    assert recalled.card == learned.card
    theirs = recalled.tensors()
    assert all(np.array_equal(theirs[name], array) for name, array in learned.tensors().items())


def test_changed_or_missing_weights_are_not_recalled(learned: Remembered, tmp_path: Path) -> None:
    folder = card.folder_of(tmp_path, TINY, learned.source, 64)
    card.remember(folder, learned)
    assert learned.source is not None
    data = bytearray(learned.source.read_bytes())
    data[-1] ^= 1
    learned.source.write_bytes(data)
    assert card.recall(folder) is None
    learned.source.unlink()
    assert card.recall(folder) is None


@pytest.mark.parametrize("name", ["card.json", "backbone.safetensors"])
def test_damage_is_not_recalled(learned: Remembered, tmp_path: Path, name: str) -> None:
    folder = card.folder_of(tmp_path, TINY, learned.source, 64)
    card.remember(folder, learned)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    assert card.recall(folder) is None


def test_half_a_network_is_not_recalled(
    learned: Remembered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody empties the cache in the middle of the write: the rest of it is written all the same."""
    folder = card.folder_of(tmp_path, TINY, learned.source, 64)
    write = files.write_arrays

    def cleared(path: Path, arrays: Any) -> None:
        write(path, arrays)
        shutil.rmtree(path.parent)

    monkeypatch.setattr(files, "write_arrays", cleared)
    card.remember(folder, learned)
    assert card.recall(folder) is None
    monkeypatch.undo()
    card.remember(folder, learned)
    assert card.recall(folder) is not None


def test_many_remember_one_network_at_once(learned: Remembered, tmp_path: Path) -> None:
    folder = card.folder_of(tmp_path, TINY, learned.source, 64)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: card.remember(folder, learned), range(12)))
    assert card.recall(folder) is not None
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_card_of_another_format_is_not_recalled(learned: Remembered, tmp_path: Path) -> None:
    folder = card.folder_of(tmp_path, TINY, learned.source, 64)
    card.remember(folder, learned)
    facts = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(facts | {"format_version": 99}))
    assert card.recall(folder) is None


def test_tensors_damaged_after_the_recall_are_refused(learned: Remembered, tmp_path: Path) -> None:
    folder = card.folder_of(tmp_path, TINY, learned.source, 64)
    card.remember(folder, learned)
    recalled = card.recall(folder)
    assert recalled is not None
    data = bytearray((folder / "backbone.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "backbone.safetensors").write_bytes(data)
    with pytest.raises(ArtefactError, match="damaged"):
        recalled.tensors()


def test_what_is_asked_for_decides_where_it_is_remembered(tmp_path: Path) -> None:
    requests = [(TINY, None, None), ("resnet18", None, None), (TINY, tmp_path / "a", None), (TINY, None, 64)]
    assert len({card.folder_of(tmp_path, *request) for request in requests}) == len(requests)


def test_the_digest_sees_every_bit_and_every_name() -> None:
    one = {"a": np.zeros((2, 3), np.float32), "b": np.array(1)}
    digest = card.tensors_digest(one)
    assert digest == card.tensors_digest(dict(reversed(one.items())))
    assert digest == card.tensors_digest({"a": np.zeros((3, 2), np.float32).T, "b": np.array(1)})
    others = [
        {"a": np.zeros((3, 2), np.float32), "b": np.array(1)},
        {"a": np.zeros((2, 3), np.int32), "b": np.array(1)},
        {"c": np.zeros((2, 3), np.float32), "b": np.array(1)},
        {"a": np.zeros((2, 3), np.float32), "b": np.array(2)},
    ]
    assert len({digest, *(card.tensors_digest(other) for other in others)}) == 5


def test_a_bundle_without_torch_is_the_one_that_timm_would_write(
    network: Network, learned: Remembered, tmp_path: Path
) -> None:
    weight, bias = np.ones((5, learned.card.num_features), np.float32), np.arange(5, dtype=np.float32)
    tensors = {**learned.tensors(), **learned.card.classifier_tensors(weight, bias)}
    names = ["a", "b", "c", "d", "e"]
    bundle.save(
        tmp_path / "b", tensors, learned.card.config, classes=names, preprocessing=network.preprocessing, facts={}
    )
    network.model.reset_classifier(5)  # type: ignore[operator]
    backbone.set_linear_classifier(network.model, torch.from_numpy(weight), torch.from_numpy(bias))
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    theirs = bundle.config_of(network.model, network.preprocessing)
    assert {key: config[key] for key in theirs} == theirs
    loaded = bundle.load(tmp_path / "b").model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.model.state_dict().items())

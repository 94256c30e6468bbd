"""A remembered network is used while it is the same, and never otherwise."""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError
from cnn_tl.networks import backbone, bundle, info
from cnn_tl.networks.backbone import Network
from cnn_tl.networks.info import Remembered
from cnn_tl.networks.pretrained import weights
from cnn_tl.networks.timm_model import config_of

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
    assert learned.info.num_features == model.num_features
    assert learned.info.backbone_parameters == sum(p.numel() for p in model.parameters()) - head
    assert (learned.info.classifier, learned.info.convolution) == ("fc", False)
    assert learned.tensors().keys() | {"fc.weight", "fc.bias"} == model.state_dict().keys()


def test_what_is_recalled_is_what_was_remembered(learned: Remembered, tmp_path: Path) -> None:
    folder = info.folder_of(tmp_path, TINY, learned.source, 64)
    assert info.recall(folder) is None
    info.remember(folder, learned)
    recalled = info.recall(folder)
    assert recalled is not None
    assert recalled.info == learned.info
    theirs = recalled.tensors()
    assert all(np.array_equal(theirs[name], array) for name, array in learned.tensors().items())


def test_changed_or_missing_weights_are_not_recalled(learned: Remembered, tmp_path: Path) -> None:
    folder = info.folder_of(tmp_path, TINY, learned.source, 64)
    info.remember(folder, learned)
    assert learned.source is not None
    data = bytearray(learned.source.read_bytes())
    data[-1] ^= 1
    learned.source.write_bytes(data)
    assert info.recall(folder) is None
    learned.source.unlink()
    assert info.recall(folder) is None


@pytest.mark.parametrize("name", ["card.json", "backbone.safetensors"])
def test_damage_is_not_recalled(learned: Remembered, tmp_path: Path, name: str) -> None:
    folder = info.folder_of(tmp_path, TINY, learned.source, 64)
    info.remember(folder, learned)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    assert info.recall(folder) is None


def test_half_a_network_is_not_recalled(learned: Remembered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody empties the cache in the middle of the write: the rest of it is written all the same."""
    folder = info.folder_of(tmp_path, TINY, learned.source, 64)
    write = files.write_arrays

    def cleared(path: Path, arrays: Any) -> None:
        write(path, arrays)
        shutil.rmtree(path.parent)

    monkeypatch.setattr(files, "write_arrays", cleared)
    info.remember(folder, learned)
    assert info.recall(folder) is None
    monkeypatch.undo()
    info.remember(folder, learned)
    assert info.recall(folder) is not None


def test_many_remember_one_network_at_once(learned: Remembered, tmp_path: Path) -> None:
    folder = info.folder_of(tmp_path, TINY, learned.source, 64)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: info.remember(folder, learned), range(12)))
    assert info.recall(folder) is not None
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_card_of_another_format_is_not_recalled(learned: Remembered, tmp_path: Path) -> None:
    folder = info.folder_of(tmp_path, TINY, learned.source, 64)
    info.remember(folder, learned)
    facts = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(facts | {"format_version": 99}))
    assert info.recall(folder) is None


def test_tensors_damaged_after_the_recall_are_refused(learned: Remembered, tmp_path: Path) -> None:
    folder = info.folder_of(tmp_path, TINY, learned.source, 64)
    info.remember(folder, learned)
    recalled = info.recall(folder)
    assert recalled is not None
    data = bytearray((folder / "backbone.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "backbone.safetensors").write_bytes(data)
    with pytest.raises(ArtefactError, match="damaged"):
        recalled.tensors()


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder of the tiny network's repository in a hub cache of our own."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = weights.find(TINY).hf_hub_id
    assert repository is not None
    return tmp_path / "hub" / f"models--{repository.replace('/', '--')}"


def fetch(cache: Path, revision: str, file: Path) -> Path:
    """Let a program fetch a revision that has this file."""
    snapshot = cache / "snapshots" / revision
    snapshot.mkdir(parents=True, exist_ok=True)
    (cache / "refs").mkdir(exist_ok=True)
    (cache / "refs" / "main").write_text(revision)
    return Path(shutil.copy(file, snapshot / "model.safetensors"))


def from_hub() -> Remembered:
    network = backbone.build(TINY, weights.locate(TINY), num_classes=3, image_size=64, seed=0)
    return backbone.describe(network, backbone.require_linear_classifier(network))


def test_new_weights_on_the_hub_are_not_missed(hub_cache: Path, tiny_weights: Path, tmp_path: Path) -> None:
    first = fetch(hub_cache, "1" * 40, tiny_weights)
    learned = from_hub()
    assert learned.source == first
    folder = info.folder_of(tmp_path, TINY, None, 64)
    info.remember(folder, learned)
    recalled = info.recall(folder)
    assert recalled is not None
    assert recalled.published == learned.published
    fetch(hub_cache, "2" * 40, tiny_weights)
    assert info.recall(folder) is not None  # another revision of the same weights
    state = load_file(tiny_weights)
    save_file({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "better.safetensors")
    fetch(hub_cache, "3" * 40, tmp_path / "better.safetensors")
    assert first.is_file()
    assert info.recall(folder) is None
    info.remember(folder, from_hub())
    assert info.recall(folder) is not None
    shutil.rmtree(hub_cache)
    assert info.recall(folder) is None


def test_a_package_that_is_installed_later_is_not_missed(
    hub_cache: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(weights.PACKAGES, TINY, "tiny_weights_for_a_test")
    fetch(hub_cache, "1" * 40, tiny_weights)
    folder = info.folder_of(tmp_path, TINY, None, 64)
    info.remember(folder, from_hub())
    assert info.recall(folder) is not None
    models = tmp_path / "site" / "tiny_weights_for_a_test" / "models"
    models.mkdir(parents=True)
    (models.parent / "__init__.py").touch()
    torch.save(load_file(tiny_weights), models / "tiny.pth")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert info.recall(folder) is None


def test_weights_at_a_url_are_found_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = weights.PublishedWeights(None, None, "https://example.org/releases/model-0123.pth")
    assert found.file() is None
    path = Path(torch.hub.get_dir(), "checkpoints", "model-0123.pth")
    path.parent.mkdir(parents=True)
    path.touch()
    assert found.file() == path


def test_what_was_remembered_meanwhile_stays(learned: Remembered, tmp_path: Path) -> None:
    """Another first run was quicker, and has measured already."""
    folder = info.folder_of(tmp_path, TINY, learned.source, 64)
    info.remember(folder, learned)
    (folder / "loop-0.json").touch()
    info.remember(folder, learned)
    assert (folder / "loop-0.json").exists()


def test_a_memory_that_may_only_be_read_is_recalled(
    learned: Remembered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = info.folder_of(tmp_path, TINY, learned.source, 64)
    info.remember(folder, learned)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert info.recall(folder) is not None


def test_what_is_asked_for_decides_where_it_is_remembered(tmp_path: Path) -> None:
    requests = [(TINY, None, None), ("resnet18", None, None), (TINY, tmp_path / "a", None), (TINY, None, 64)]
    assert len({info.folder_of(tmp_path, *request) for request in requests}) == len(requests)


def test_the_digest_sees_every_bit_and_every_name() -> None:
    one = {"a": np.zeros((2, 3), np.float32), "b": np.array(1)}
    digest = info.tensors_digest(one)
    assert digest == info.tensors_digest(dict(reversed(one.items())))
    assert digest == info.tensors_digest({"a": np.zeros((3, 2), np.float32).T, "b": np.array(1)})
    others = [
        {"a": np.zeros((3, 2), np.float32), "b": np.array(1)},
        {"a": np.zeros((2, 3), np.int32), "b": np.array(1)},
        {"c": np.zeros((2, 3), np.float32), "b": np.array(1)},
        {"a": np.zeros((2, 3), np.float32), "b": np.array(2)},
    ]
    assert len({digest, *(info.tensors_digest(other) for other in others)}) == 5


def test_a_bundle_without_torch_is_the_one_that_timm_would_write(
    network: Network, learned: Remembered, tmp_path: Path
) -> None:
    weight, bias = np.ones((5, learned.info.num_features), np.float32), np.arange(5, dtype=np.float32)
    tensors = {**learned.tensors(), **learned.info.classifier_tensors(weight, bias)}
    names = ["a", "b", "c", "d", "e"]
    bundle.save(
        tmp_path / "b", tensors, learned.info.config, classes=names, preprocessing=network.preprocessing, facts={}
    )
    network.model.reset_classifier(5)  # type: ignore[operator]
    backbone.set_linear_classifier(network.model, torch.from_numpy(weight), torch.from_numpy(bias))
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    theirs = config_of(network.model, network.preprocessing)
    del theirs["model_args"]["num_classes"]  # it stands beside them, and transformers cannot have it twice
    assert {key: config[key] for key in theirs} == theirs
    loaded = bundle.load(tmp_path / "b").model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in network.model.state_dict().items())

"""The modules give the logits that the fitted heads give, alone, in a bundle and in ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cnn_tl.core import telemetry
from cnn_tl.core.choices import HeadKind
from cnn_tl.core.errors import ArtefactError
from cnn_tl.heads import HEADS, FittedHead, Problem
from cnn_tl.networks import backbone, bundle, head_modules
from cnn_tl.networks.pretrained import weights
from cnn_tl.recipe.defaults import HEAD_DEFAULTS

SETTINGS: list[tuple[HeadKind, dict[str, Any]]] = [("adamw", {"hidden": 8}), ("knn", {}), ("knn", {"neighbours": 1})]


def fitted(kind: HeadKind, settings: dict[str, Any], num_features: int = 10) -> tuple[FittedHead, np.ndarray]:
    chance = np.random.default_rng(0)
    labels = np.arange(60) % 3
    rows = (chance.normal(size=(3, num_features))[labels] + chance.normal(size=(60, num_features))).astype(np.float32)
    problem = Problem([rows], labels, 3, np.ones(3), 0)
    head = HEADS[kind](problem, HEAD_DEFAULTS[kind].model_copy(update=settings))
    return head, chance.normal(size=(7, num_features)).astype(np.float32)


def module_of(head: FittedHead) -> torch.nn.Module:
    assert head.spec is not None
    return head_modules.build(head.spec, {name: torch.from_numpy(array) for name, array in head.tensors.items()}).eval()


@pytest.mark.parametrize(("kind", "settings"), SETTINGS)
def test_a_module_gives_the_logits_of_the_head(kind: HeadKind, settings: dict[str, Any]) -> None:
    head, queries = fitted(kind, settings)
    module = module_of(head)
    with torch.inference_mode():
        flat = module(torch.from_numpy(queries))
        assert torch.equal(module(torch.from_numpy(queries)[:, :, None, None]), flat)
    np.testing.assert_allclose(flat.numpy(), head.logits(queries), atol=1e-5)
    assert set(module.state_dict()) == set(head.tensors)


@pytest.mark.parametrize("neighbours", [1, 2, 3, 5])
@pytest.mark.parametrize("noise", [0.0, 1e-7])
def test_neighbours_that_are_equally_near_have_the_same_say(neighbours: int, noise: float) -> None:
    """As with an image that lies in several class folders: no order among equals decides, in numpy or in torch."""
    chance = np.random.default_rng(0)
    base = chance.normal(size=(150, 64)).astype(np.float32)
    rows, labels = np.repeat(base, 4, axis=0), np.tile([1, 2, 0, 2], 150)
    rows = (rows * (1 + noise * chance.normal(size=rows.shape))).astype(np.float32)
    settings = HEAD_DEFAULTS["knn"].model_copy(update={"neighbours": neighbours})
    queries = (base + 0.05 * chance.normal(size=base.shape)).astype(np.float32)
    answers = []
    for order in (np.arange(600), chance.permutation(600)):
        head = HEADS["knn"](Problem([rows[order]], labels[order], 3, np.ones(3), 0), settings)
        answers += [head.logits(queries), module_of(head)(torch.from_numpy(queries)).numpy()]
        if neighbours < 5:
            np.testing.assert_allclose(answers[-1][:, :2], np.log(0.25 + 1e-6), atol=1e-3)
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], atol=1e-4)
        assert np.array_equal(other.argmax(1), answers[0].argmax(1))


def test_classes_with_equal_votes_are_a_tie_to_the_last_bit() -> None:
    """An image in two class folders gives each of them the same logit, so the first answers, everywhere."""
    chance = np.random.default_rng(0)
    base = chance.normal(size=(301, 48)).astype(np.float32)
    rows, labels = np.concatenate([base, base]), np.repeat([0, 1], 301)
    head = HEADS["knn"](
        Problem([rows], labels, 2, np.ones(2), 0), HEAD_DEFAULTS["knn"].model_copy(update={"neighbours": 1})
    )
    queries = (base + 0.05 * chance.normal(size=base.shape)).astype(np.float32)
    for logits in (head.logits(queries), module_of(head)(torch.from_numpy(queries)).numpy()):
        assert np.array_equal(logits[:, 0], logits[:, 1])


@pytest.mark.parametrize(("kind", "settings"), SETTINGS)
def test_a_bundle_brings_it_back(kind: HeadKind, settings: dict[str, Any], tmp_path: Path) -> None:
    source = weights.Source("random", None, "")
    network = backbone.build("test_resnet", source, num_classes=3, image_size=64, seed=0)
    info = backbone.describe(network, backbone.require_linear_classifier(network)).info
    head, queries = fitted(kind, settings, info.num_features)
    own = {f"{info.classifier}.{name}": array for name, array in head.tensors.items()}
    tensors = {**backbone.backbone_tensors(network.model), **own}
    bundle.save(
        tmp_path / "b", tensors, info.config, classes=["a", "b", "c"], preprocessing=info.preprocessing, facts={},
        head=head.spec,
    )  # fmt: skip
    model = bundle.load(tmp_path / "b").model
    with torch.inference_mode():
        logits = model.get_classifier()(torch.from_numpy(queries))  # type: ignore[operator]
        assert model(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    np.testing.assert_allclose(logits.numpy(), head.logits(queries), atol=1e-5)


@pytest.mark.parametrize("spec", [{"kind": "forest"}, {}, {"kind": "mlp"}, {"kind": "knn"}])
def test_a_head_that_does_not_fit_is_refused(spec: dict[str, Any], tmp_path: Path) -> None:
    network = backbone.build(
        "test_resnet", weights.Source("random", None, ""), num_classes=3, image_size=64, seed=0
    )  # fmt: skip
    info = backbone.describe(network, 1).info
    tensors = {name: tensor.numpy() for name, tensor in network.model.state_dict().items()}
    bundle.save(
        tmp_path / "b", tensors, info.config, classes=["a", "b", "c"], preprocessing=info.preprocessing, facts={},
        head=spec or {"kind": None},
    )  # fmt: skip
    with pytest.raises(ArtefactError, match="do not fit"):
        bundle.load(tmp_path / "b")


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch 2.11's exporter warns of itself
@pytest.mark.parametrize(("kind", "settings"), SETTINGS[:2])
def test_onnx_agrees(kind: HeadKind, settings: dict[str, Any], tmp_path: Path) -> None:
    head, queries = fitted(kind, settings)
    path = tmp_path / "head.onnx"
    torch.onnx.export(module_of(head), (torch.from_numpy(queries),), path, dynamo=True, verbose=False)
    session = telemetry.onnxruntime().InferenceSession(path)
    [logits] = session.run(None, {session.get_inputs()[0].name: queries})
    np.testing.assert_allclose(logits, head.logits(queries), atol=1e-4)

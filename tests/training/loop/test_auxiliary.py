"""GoogLeNet's auxiliary classifiers: they train with the network, are seen in the metrics, and are in nothing kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from whole_runs import StopAfter, assert_same_weights, final_weights, metrics

from cnn_tl.core.errors import ArtefactError, Stopped
from cnn_tl.exporting.export import export
from cnn_tl.networks import bundle
from cnn_tl.networks.classic.googlenet import GoogLeNet
from cnn_tl.networks.graph.trace import NoGraphError
from cnn_tl.recipe import Recipe
from cnn_tl.training import backbone_graph
from cnn_tl.training.loop import lr_range_test
from cnn_tl.training.run import find_lr, train
from cnn_tl.training.step.gradients import Gradients

Make = Callable[..., Recipe]
MODEL = {"name": "googlenet", "image_size": 32, "weights": None}
AUX_LOSSES = ("aux1_loss", "aux2_loss")


class Notes(StopAfter):
    """Keeps the notes and stops nothing."""

    def __init__(self) -> None:
        super().__init__("", 0)

    @property
    def auxiliary(self) -> list[str]:
        return [note for note in self.notes if "auxiliary" in note]


@pytest.fixture(autouse=True)
def no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validate in torch: to make GoogLeNet's graph takes longer than its training here."""

    def trace(network: object) -> bytes:
        raise NoGraphError("not in these tests")

    monkeypatch.setattr(backbone_graph, "trace", trace)


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Path]:
    """Write random weights of GoogLeNet, with or without auxiliary classifiers, for 1,000 classes."""
    folder = tmp_path_factory.mktemp("weights")

    def write(aux: bool) -> Path:
        path = folder / f"{aux}.safetensors"
        if not path.exists():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                save_file(timm.create_model("googlenet", aux_logits=aux).state_dict(), path)
        return path

    return write


def scratch(recipe: Make, **train: Any) -> Recipe:
    return recipe("scratch", model=MODEL, train={"epochs": 8, "lr": 0.001} | train)


def test_their_losses_stand_in_the_metrics_and_fall(recipe: Make, tmp_path: Path) -> None:
    notes = Notes()
    result = train(scratch(recipe), tmp_path / "run", observer=notes)
    rows = metrics(result.run)
    assert all(rows[-1][name] < rows[0][name] for name in AUX_LOSSES)
    assert notes.auxiliary == [
        "2 auxiliary classifiers (4,336,134 parameters) train too, with 0.3 of the loss each; "
        "they start at random, and are dropped in the end"
    ]
    assert "aux1_loss,aux2_loss" in (result.run / "metrics.csv").read_text()
    kept = final_weights(result.run)
    assert kept.keys() == timm.create_model("googlenet", num_classes=3).state_dict().keys()
    assert bundle.read_config(result.run / "model").get("model_args", {}).get("aux_logits", False) is False
    assert export(result.run).parity[0].holds


def test_a_resumed_run_ends_in_the_same_bits(recipe: Make, tmp_path: Path) -> None:
    """Dropout and the weights inside them included."""
    with pytest.raises(Stopped):
        train(scratch(recipe, epochs=2), tmp_path / "run", observer=StopAfter("epoch 2", 9))
    train(scratch(recipe, epochs=2), tmp_path / "run", resume=True)
    train(scratch(recipe, epochs=2), tmp_path / "undisturbed")
    assert_same_weights(tmp_path / "run", tmp_path / "undisturbed")
    assert metrics(tmp_path / "run") == metrics(tmp_path / "undisturbed")


def test_without_them(recipe: Make, tmp_path: Path) -> None:
    """Weight 0 is a network without them; and their gradients are what makes the difference."""
    notes = Notes()
    without = train(scratch(recipe, epochs=1, aux_weight=0), tmp_path / "without", observer=notes)
    assert not notes.auxiliary
    assert not set(AUX_LOSSES) & set(metrics(without.run)[0])
    assert (
        metrics(without.run)[0].keys() | set(AUX_LOSSES)
        == metrics(train(scratch(recipe, epochs=1), tmp_path / "with").run)[0].keys()
    )
    first, second = final_weights(without.run), final_weights(tmp_path / "with")
    assert not torch.equal(first["conv1.conv.weight"], second["conv1.conv.weight"])


@pytest.mark.parametrize("mode", ["finetune", "auto"])
def test_fine_tuning_has_them_too(
    recipe: Make, tmp_path: Path, weights_file: Callable[[bool], Path], mode: str
) -> None:
    notes = Notes()
    chosen = recipe(mode, model=MODEL | {"weights": str(weights_file(True))}, train={"epochs": 1, "micro_batch": 3})
    result = train(chosen, tmp_path / "run", observer=notes)
    head, first = metrics(result.run)
    assert set(AUX_LOSSES) <= set(first)
    assert not set(AUX_LOSSES) & set(head)
    assert "they start from the weights file, their last layers at random" in notes.auxiliary[0]
    assert not any(name.startswith("aux") for name in final_weights(result.run))
    assert bundle.load(result.run).model.num_classes == 3


def test_a_file_without_them_is_no_hindrance(
    recipe: Make, tmp_path: Path, weights_file: Callable[[bool], Path]
) -> None:
    notes = Notes()
    chosen = recipe("finetune", model=MODEL | {"weights": str(weights_file(False))}, train={"steps": 1, "epochs": None})
    train(chosen, tmp_path / "run", observer=notes)
    assert "they start at random" in notes.auxiliary[0]


def test_auxiliary_classifiers_of_another_network_are_refused(
    recipe: Make, tmp_path: Path, weights_file: Callable[[bool], Path]
) -> None:
    state = timm.create_model("googlenet", aux_logits=True).state_dict()
    state["aux2.conv.conv.weight"] = torch.zeros(128, 512, 1, 1)
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(ArtefactError, match=r"auxiliary classifiers do not fit googlenet in aux2\.conv\.conv\.weight"):
        train(recipe("finetune", model=MODEL | {"weights": str(tmp_path / "odd.safetensors")}), tmp_path / "run")


@pytest.mark.parametrize("policy", ["last-stage", "norm"])
def test_where_a_part_is_frozen_there_are_none(
    recipe: Make, tmp_path: Path, weights_file: Callable[[bool], Path], policy: str
) -> None:
    notes = Notes()
    model = MODEL | {"weights": str(weights_file(True)), "freeze": policy}
    result = train(recipe("finetune", model=model, train={"epochs": 1}), tmp_path / "run", observer=notes)
    assert not notes.auxiliary
    assert not set(AUX_LOSSES) & set(metrics(result.run)[0])


def test_a_range_test_goes_by_the_classifiers_own_loss(recipe: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lr_range_test, "STEPS", 9)
    seen: list[GoogLeNet] = []
    real = GoogLeNet.remove_auxiliary
    monkeypatch.setattr(GoogLeNet, "remove_auxiliary", lambda self: (seen.append(self), real(self))[1])
    found = find_lr(scratch(recipe))
    assert found.losses[0] == pytest.approx(1.1, abs=0.6), "ln 3, and not 1.6 times that"
    assert seen
    assert not seen[0].aux_logits


class Three(nn.Module):
    """Gives three sets of logits, each from a layer of its own behind a common one."""

    def __init__(self) -> None:
        super().__init__()
        self.common = nn.Linear(4, 4)
        self.heads = nn.ModuleList(nn.Linear(4, 3) for _ in range(3))

    def forward(self, x_ND: Tensor) -> tuple[Tensor, ...]:
        x_ND = self.common(x_ND)
        return tuple(head(x_ND) for head in self.heads)


@pytest.mark.parametrize("micro_batch", [8, 3])
def test_the_loss_is_the_paper_s(micro_batch: int) -> None:
    """Szegedy et al. 2014, sec. 5: the auxiliary losses are added with 0.3 each."""
    torch.manual_seed(0)
    model, x_ND = Three(), torch.randn(8, 4)
    targets_NK = nn.functional.one_hot(torch.arange(8) % 3, 3).float()

    def loss(logits_NK: Tensor, targets_NK: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits_NK, targets_NK, reduction="none")

    main, first, second = (loss(logits, targets_NK).mean() for logits in model(x_ND))
    expected = torch.autograd.grad(main + 0.3 * (first + second), list(model.parameters()))
    gradients = Gradients(model, loss, torch.device("cpu"), "fp32", 0, micro_batch, lambda text: None, aux_weight=0.3)
    sums = gradients.add(x_ND, targets_NK, 0)
    torch.testing.assert_close(sums / 8, torch.stack([main, first, second]).detach())
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)

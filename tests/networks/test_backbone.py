from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from cnn_tl.core.errors import CnnTlError, ResourceError, UsageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks import backbone
from cnn_tl.networks.pretrained.weights import Source
from cnn_tl.training import preflight

SPEC = Preprocessing(8, 8, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_building_leaves_the_callers_generators_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the GPU too, which `torch.manual_seed` reseeds and `fork_rng(devices=[])` does not bring back."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPU's generators were seeded"))
    before = torch.get_rng_state()
    made = [
        backbone.build("test_resnet", Source("random", None, ""), num_classes=3, image_size=64, seed=seed).model
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), before)
    first, again, other = (model.state_dict() for model in made)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.0.weight"], other["conv1.0.weight"])
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_synchronised_batch_norm_keeps_the_model_and_its_parameters() -> None:
    model = timm.create_model("test_efficientnet", num_classes=3)
    before = {id(parameter) for parameter in model.parameters()}
    names = list(model.state_dict())
    synchronised = backbone.synchronised(model, torch.device("cuda"))
    kinds = {type(module).__name__ for module in synchronised.modules() if "BatchNorm" in type(module).__name__}
    assert kinds <= {"SyncBatchNorm", "SyncBatchNormAct"}
    assert {id(parameter) for parameter in synchronised.parameters()} == before
    assert list(synchronised.state_dict()) == names
    with pytest.raises(ResourceError, match="needs CUDA"):
        backbone.synchronised(model, torch.device("cpu"))


class Strange(nn.Module):
    """A network of somebody else's, that does something of its own with the answer of its classifier."""

    def __init__(self, last: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.head = nn.Linear(12, 5)
        self.last = last

    def get_classifier(self) -> nn.Module:
        return self.head

    def forward(self, x_NCHW: Tensor) -> Any:
        return self.last(self.head(x_NCHW.mean(dim=3).flatten(1)[:, :12]))


def fail(error: Exception) -> Any:
    raise error


def only_with(width: int, error: Exception) -> Callable[[Tensor], Any]:
    return lambda x: x if x.shape[1] == width else fail(error)


ERRORS = [RuntimeError("sizes must match"), KeyError("aux"), AttributeError("no weight"), IndexError()]


@pytest.mark.parametrize("error", [*ERRORS, AssertionError(), TypeError("tuple"), NotImplementedError("no")], ids=repr)
def test_whatever_a_network_raises_is_a_refusal(error: Exception) -> None:
    """With its classifier taken off, or at all; a failure of the machine stays one."""
    source = Source("random", None, "")
    taken_off = backbone.Network("strange", Strange(only_with(5, error)), SPEC, source)
    with pytest.raises(UsageError, match="strange does more than one linear layer after its features") as caught:
        backbone.require_linear_classifier(taken_off)
    assert caught.value.exit_code == 2
    never = backbone.Network("strange", Strange(lambda _: fail(error)), SPEC, source)
    with pytest.raises(UsageError, match=r"strange cannot answer for an image of 8 x 8 px: [\w']"):
        backbone.require_linear_classifier(never)
    with pytest.raises(UsageError, match=r"strange cannot answer for an image of 8 x 8 px: [\w']"):
        refuse_no_logits(never)
    plain = backbone.Network("plain", Strange(lambda x: x), SPEC, source)
    assert backbone.require_linear_classifier(plain) == 12


@pytest.mark.parametrize("lacking", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), ResourceError("x")])
def test_memory_is_not_the_networks_fault(lacking: Exception) -> None:
    network = backbone.Network("strange", Strange(lambda _: fail(lacking)), SPEC, Source("random", None, ""))
    with pytest.raises(type(lacking)):
        backbone.require_linear_classifier(network)


@pytest.mark.parametrize("last", [lambda x: (x, x), lambda x: x[:, :3], lambda x: {"logits": x}, lambda x: x[0]])
def test_what_a_loss_cannot_take_is_refused(last: Callable[[Tensor], Any]) -> None:
    network = backbone.Network("strange", Strange(last).train(), SPEC, Source("random", None, ""))
    with pytest.raises(CnnTlError, match="strange does not answer with one number for each class"):
        refuse_no_logits(network)
    assert network.model.training


def refuse_no_logits(network: backbone.Network) -> None:
    """Call the preflight check of a run that trains this network for five classes."""
    run: Any = SimpleNamespace(fits_head=False)
    dataset: Any = SimpleNamespace(manifest=SimpleNamespace(classes=list("abcde")))
    lazy: Any = SimpleNamespace(model=network.model, info=SimpleNamespace(name=network.name, preprocessing=SPEC))
    preflight._refuse_no_logits(run, dataset, lazy)

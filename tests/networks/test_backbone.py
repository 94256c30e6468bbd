from __future__ import annotations

import pytest
import timm
import torch

from cnn_tl.errors import ResourceError
from cnn_tl.networks import backbone
from cnn_tl.networks.weights import Source


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

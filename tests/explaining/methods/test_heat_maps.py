"""Heat maps point where a network looks whose attention is known, and their faithfulness says so."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.functional import gaussian_blur

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.explaining import faithfulness, target_layers
from cnn_tl.explaining.methods import heat_maps
from cnn_tl.explaining.methods.top_patches import TopPatches
from cnn_tl.explaining.model import ExplainedModel

SIDE = 32
SPEC = Preprocessing(SIDE, SIDE, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
RANDOM_MAP = np.random.default_rng(0).random((7, 7))


class LooksAtRed(nn.Module):
    """Its first class is as probable as there is red, its second as there is blue."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 4, stride=4, bias=False)
        self.act = nn.ReLU()
        self.fc = nn.Linear(3, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            for channel in range(3):
                self.conv.weight[channel, channel] = 1 / 16
            self.fc.weight.copy_(torch.tensor([[40.0, 0.0, 0.0], [0.0, 0.0, 40.0]]))
            self.fc.bias.zero_()

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.fc(self.act(self.conv(x_NCHW)).mean((2, 3)))


@pytest.fixture
def explained() -> ExplainedModel:
    model = LooksAtRed().eval().requires_grad_(False)
    return ExplainedModel("looks at red", model, ("red", "blue"), SPEC, torch.device("cpu"))


@pytest.fixture
def image(explained: ExplainedModel) -> torch.Tensor:
    """Red in the upper left quarter, blue in the lower right one, grey elsewhere."""
    pixels = np.full((SIDE, SIDE, 3), 127, np.uint8)
    pixels[:16, :16] = (255, 127, 127)
    pixels[16:, 16:] = (127, 127, 200)
    return explained.to_input(pixels)


def share_inside(heat: np.ndarray, rows: slice, columns: slice) -> float:
    heat = faithfulness.enlarge(heat.clip(min=0), SIDE, SIDE)
    return float(heat[rows, columns].sum() / heat.sum())


def test_grad_cam_and_its_relatives(explained: ExplainedModel, image: torch.Tensor) -> None:
    layer = target_layers.find(explained.network, explained.grey_input())
    assert layer.name == "act"
    for method in heat_maps.CAM_METHODS:
        for index, corner in enumerate((slice(0, 16), slice(16, 32))):
            heat = heat_maps.class_activation_map(method, explained, layer, image, index)
            assert heat.shape == (8, 8)
            assert share_inside(heat.numpy(), corner, corner) > 0.9, method


@pytest.mark.parametrize("patch", [0.1, 0.25, 1.0])
def test_occlusion(explained: ExplainedModel, image: torch.Tensor, patch: float) -> None:
    heat = heat_maps.occlusion_map(explained.answering.logits, image.numpy(), 0, patch=patch, stride=0.1)
    assert heat.shape == (SIDE, SIDE)
    assert np.isfinite(heat).all()
    if patch < 1:
        assert share_inside(heat, slice(0, 16), slice(0, 16)) > 0.8
        assert heat[20:, 20:].max() <= 0  # without the blue, red is more probable


def test_the_maps_of_the_library_are_those_of_the_papers() -> None:
    """Selvaraju et al. 2017, eq. 1 and 2; Jiang et al. 2021, eq. 5 and 6; Fu et al. 2020, eq. 8."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=3).eval().requires_grad_(False)
    nn.init.normal_(model.fc.weight)
    explained = ExplainedModel("resnet10t", model, ("a", "b", "c"), SPEC, torch.device("cpu"))
    x_1CHW = torch.rand(1, 3, 96, 96)
    layer = target_layers.find(model, x_1CHW)
    kept = []
    hook = layer.module.register_forward_hook(lambda module, args, output: kept.append(output))
    logits = model(x_1CHW.clone().requires_grad_(True))
    hook.remove()
    for index in range(3):
        (gradient,) = torch.autograd.grad(logits[0, index], kept[0], retain_graph=True)
        a, g = kept[0].detach()[0], gradient[0]
        total = a.sum((1, 2), keepdim=True)
        expected = {
            "gradcam": (g.mean((1, 2), keepdim=True) * a).sum(0).relu(),
            "layercam": (g.relu() * a).sum(0).relu(),
            "xgradcam": ((g * a / (total + 1e-8)).sum((1, 2), keepdim=True) * a).sum(0).relu(),
        }
        assert expected.keys() == set(heat_maps.CAM_METHODS)
        for method, heat in expected.items():
            found = heat_maps.class_activation_map(method, explained, layer, x_1CHW, index)
            torch.testing.assert_close(found, heat, rtol=1e-4, atol=1e-5)


def test_a_right_map_is_better_than_random_and_its_opposite_worse(
    explained: ExplainedModel, image: torch.Tensor
) -> None:
    layer = target_layers.find(explained.network, explained.grey_input())
    heat = heat_maps.class_activation_map("gradcam", explained, layer, image, 0).numpy()
    curves = [faithfulness.measure(explained.answering, image.numpy(), one, 0) for one in (heat, -heat)]
    right, wrong = (asdict(one.areas) for one in curves if one is not None)
    assert right["deletion"] < right["random_deletion"] < wrong["deletion"]
    assert right["insertion"] > right["random_insertion"] > wrong["insertion"]
    assert {name: right[name] for name in right if "random" in name} == {
        name: wrong[name] for name in wrong if "random" in name
    }


def test_the_curves_begin_and_end_where_they_must(explained: ExplainedModel, image: torch.Tensor) -> None:
    curves = faithfulness.measure(explained.answering, image.numpy(), RANDOM_MAP, 0)
    assert curves is not None
    assert curves.deletion[0] == pytest.approx(1)
    assert curves.deletion[-1] == pytest.approx(0)
    assert curves.insertion[-1] == pytest.approx(1)
    assert len(curves.share) == len(curves.deletion) == faithfulness.STEPS + 1


def test_what_a_grey_image_says_too_is_not_measured(explained: ExplainedModel) -> None:
    answering = explained.answering
    assert faithfulness.measure(answering, answering.grey_input(), RANDOM_MAP, 0) is None


def test_log_odds_move_where_the_probability_does_not() -> None:
    logits = np.array([[50.0, 0.0, 0.0], [60.0, 0.0, 0.0]], np.float32)
    before, after = heat_maps.log_odds(logits, 0).tolist()
    assert after - before == pytest.approx(10)
    assert heat_maps.log_odds(np.array([[1.0, 2.0]], np.float32), 1).item() == pytest.approx(1)


def test_a_map_is_as_opaque_as_it_is_hot() -> None:
    from cnn_tl.plots.explanation import heat_over

    pixels = np.full((1, 4, 3), (200, 100, 50), np.uint8)
    grey = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
    drawn = heat_over(pixels, np.array([[-3.0, 0.0, 1.0, 2.0]])).astype(int)
    assert drawn[0, 0].tolist() == drawn[0, 1].tolist() == [grey] * 3  # cold: the image itself, no veil
    spread = np.ptp(drawn, axis=2)[0]
    assert spread[0] == spread[1] == 0 < spread[2] < spread[3]
    white = heat_over(np.full((1, 4, 3), 255, np.uint8), np.array([[0.0, 0.0, 1.0, 2.0]])).astype(int)
    assert (white - drawn)[0, 3].tolist() == pytest.approx([0.2 * (255 - grey)] * 3, abs=1)  # still seen below the heat


@pytest.mark.parametrize(
    ("heat", "evidence", "caveat"),
    [
        ([0.0, 0.0], 9.0, heat_maps.EMPTY),
        ([-1.0, -0.1], 9.0, heat_maps.EMPTY),
        ([0.0, 0.1], 0.49, heat_maps.NO_EVIDENCE),
        ([0.0, 0.1], -4.0, heat_maps.NO_EVIDENCE),
        ([0.0, 0.1], 0.51, None),
    ],
)
def test_when_a_map_must_not_be_trusted(heat: list[float], evidence: float, caveat: str | None) -> None:
    assert heat_maps.caveat(np.array(heat), evidence) == caveat


def test_a_patch_is_grey_as_the_preprocessing_has_it() -> None:
    """The mean of each channel, which normalised is zero; black or white would be another image, not less of one."""
    spec = Preprocessing(SIDE, SIDE, "bilinear", 1.0, "center", (0.2, 0.4, 0.8), (0.5, 0.5, 0.5))
    seen: list[np.ndarray] = []

    def logits(pixels: np.ndarray) -> np.ndarray:
        seen.extend(pixels.copy())
        return np.zeros((len(pixels), 2), np.float32)

    heat_maps.occlusion_map_of_pixels(logits, np.full((SIDE, SIDE, 3), 9, np.uint8), 0, spec)
    for image in seen[1:]:
        colours = {tuple(colour) for colour in image.reshape(-1, 3).tolist()}
        assert colours == {(9, 9, 9), (51, 102, 204)}

    class Sees(nn.Module):
        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            assert set(x_NCHW.unique().tolist()) <= {0.0, 0.75}
            return x_NCHW.mean((2, 3))[:, :2]

    watched = ExplainedModel("sees", Sees(), ("a", "b"), spec, torch.device("cpu"))
    heat = heat_maps.occlusion_map(watched.answering.logits, np.full((1, 3, SIDE, SIDE), 0.75, np.float32), 0)
    assert heat.shape == (SIDE, SIDE)


def test_insertion_begins_with_a_blurred_image_and_deletion_ends_with_a_grey_one(
    explained: ExplainedModel, image: torch.Tensor
) -> None:
    """Blurred, as much red is left as there was, so insertion begins high; a grey image has none, which is 0."""
    red = heat_maps.occlusion_map(explained.answering.logits, image.numpy(), 0)
    found = faithfulness.measure(explained.answering, image.numpy(), red, 0)
    assert found is not None
    assert (found.deletion[0], found.deletion[-1]) == (pytest.approx(1), pytest.approx(0, abs=1e-6))
    assert found.insertion[-1] == pytest.approx(1)
    assert found.insertion[0] > 0.7
    assert found.random_deletion[0] == pytest.approx(1)


def test_top_patches_keep_the_best_of_all_batches_with_their_places() -> None:
    """Of equals the earlier image stays; the place is where the peak is on the map."""
    draw = torch.Generator().manual_seed(0)
    maps = torch.rand(30, 2, 4, 5, generator=draw)
    maps[3] = maps[21]  # the same twice: image 3 is the earlier one
    maps[[3, 21], 0, 2, 1] = 7.0
    best = TopPatches()
    for start in range(0, 30, 8):
        part = maps[start : start + 8]
        best.add([(start + n, Path(f"{start + n}.png")) for n in range(len(part))], part)
    for channel in range(2):
        peaks = maps[:, channel].flatten(1).max(1)
        order = torch.argsort(peaks.values, descending=True, stable=True)[:9]
        assert best.value[channel].tolist() == peaks.values[order].tolist()
        assert best.place[channel].tolist() == peaks.indices[order].tolist()
    assert best.image[0].tolist()[:2] == [3, 21]
    assert best.place[0, 0] == 2 * 5 + 1
    assert set(best.files) == set(best.image.flatten().tolist())


def test_enlarging_and_blurring_are_those_of_torch() -> None:
    chance = np.random.default_rng(0)
    small, x_1CHW = chance.random((5, 7)).astype(np.float32), chance.normal(size=(1, 3, 30, 41)).astype(np.float32)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(small)[None, None], (32, 40), mode="bilinear")
    np.testing.assert_allclose(faithfulness.enlarge(small, 32, 40), wanted[0, 0], atol=1e-6)
    blurred = gaussian_blur(torch.from_numpy(x_1CHW), [faithfulness.BLUR_KERNEL] * 2, [faithfulness.BLUR_SIGMA] * 2)
    np.testing.assert_allclose(faithfulness._blurred(x_1CHW), blurred, atol=1e-6)

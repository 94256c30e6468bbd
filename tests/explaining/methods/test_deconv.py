"""A projection is that of a deconvnet, and a receptive field is what arithmetic says."""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F
from torch import nn

from cnn_tl.explaining import target_layers
from cnn_tl.explaining.methods import deconv


class SmallVgg(nn.Module):
    """Convolution, BatchNorm, ReLU, max pooling; twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.relu2 = nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(inplace=True)
        self.bn1.running_var.uniform_(0.5, 2)
        self.bn1.weight.data.uniform_(0.5, 2)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x_NCHW = F.max_pool2d(F.relu(self.bn1(self.conv1(x_NCHW))), 2)
        return F.max_pool2d(self.relu2(self.conv2(x_NCHW)), 2).mean((2, 3))


def deconvnet(net: SmallVgg, x_NCHW: torch.Tensor, channel: int, place: int) -> torch.Tensor:
    """Go forward keeping the switches, then back with transposed convolutions, as in the paper's figure 1."""
    first, switches = F.max_pool2d(F.relu(net.bn1(net.conv1(x_NCHW))), 2, return_indices=True)
    second = F.relu(net.conv2(first))
    alone = torch.zeros_like(second)
    alone[0, channel].view(-1)[place] = second[0, channel].view(-1)[place]
    back = F.conv_transpose2d(F.relu(alone), net.conv2.weight, padding=1)
    back = F.relu(F.max_unpool2d(back, switches, 2))
    scale = net.bn1.weight / torch.sqrt(net.bn1.running_var + net.bn1.eps)
    return F.conv_transpose2d(back * scale.view(1, -1, 1, 1), net.conv1.weight, padding=1)


def test_equal_to_transposed_convolutions_unpooling_and_rectification() -> None:
    net = SmallVgg().eval()
    x_NCHW = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) - 0.5
    layer = target_layers.find(net, x_NCHW[:1], "relu2")
    maps = target_layers.activations(net, layer, x_NCHW).detach().flatten(2)
    channels = maps.amax(2).argmax(1)
    places = maps[torch.arange(2), channels].argmax(1)
    got = deconv.project("deconv", net, layer, x_NCHW, channels, places)
    for number in range(2):
        expected = deconvnet(net, x_NCHW[number : number + 1], int(channels[number]), int(places[number]))
        assert expected.abs().max() > 0.01
        torch.testing.assert_close(got[number], expected[0].detach(), rtol=1e-4, atol=1e-6)


def test_it_is_not_the_gradient_and_guided_is_neither() -> None:
    net = SmallVgg().eval()
    x_NCHW = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) - 0.5
    layer = target_layers.find(net, x_NCHW, "relu2")
    maps_CP = target_layers.activations(net, layer, x_NCHW).detach()[0].flatten(1)
    channel, place = divmod(int(maps_CP.argmax()), maps_CP.shape[1])
    one, middle = torch.tensor([channel]), torch.tensor([place])
    x = x_NCHW.clone().requires_grad_(True)
    value = target_layers.activations(net, layer, x)[0, channel].reshape(-1)[place]
    (gradient,) = torch.autograd.grad(value, x, value.detach())
    found = [deconv.project(rule, net, layer, x_NCHW, one, middle) for rule in deconv.RULES]
    assert gradient.abs().max() > 0
    for a, b in ((found[0], gradient), (found[1], gradient), (found[0], found[1])):
        assert not torch.allclose(a, b, rtol=1e-3)


def test_the_receptive_field_of_two_convolutions_and_a_pooling() -> None:
    net = SmallVgg().eval()
    x_NCHW = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    layer = target_layers.find(net, x_NCHW[:1], "relu2")
    places = torch.tensor([3 * 8 + 3, 0])  # a 3 x 3 window of pooled pixels: rows 4..9, and one more on each side
    inner, corner = deconv.receptive_fields(net, layer, x_NCHW, torch.tensor([1, 1]), places)
    assert inner[0] in (3, 4)  # pooling lets only the winner of each window back
    assert inner[2] in (10, 11)
    assert corner[:2] == (0, 0)
    assert corner[2] <= 5


def test_gates_let_nothing_back_and_depthwise_blocks_work() -> None:
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv3_small_050", pretrained=False, num_classes=2).eval()
    x_NCHW = torch.rand(1, 3, 96, 96)
    layer = target_layers.find(model, x_NCHW, "blocks.1")
    found = deconv.project("deconv", model, layer, x_NCHW, torch.tensor([0]), torch.tensor([0]))
    assert found.isfinite().all()
    box = deconv.receptive_fields(model, layer, x_NCHW, torch.tensor([0]), torch.tensor([0]))[0]
    assert box[2] < 96  # through squeeze-and-excitation every pixel would count

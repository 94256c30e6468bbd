"""LeNet-5 (LeCun et al. 1998, "Gradient-based learning applied to document recognition", sec. II-B), for timm.

    input  [3, 32, 32]   converted to grey: one channel, as in the paper
    C1     [6, 28, 28]   5 x 5 convolution                     156 parameters
    S2     [6, 14, 14]   2 x 2 pooling                           -
    C3    [16, 10, 10]   5 x 5 convolution                   2,416
    S4    [16, 5, 5]     2 x 2 pooling                           -
    C5   [120, 1, 1]     5 x 5 convolution                  48,120
    F6    [84]           linear                             10,164
    output [10]          linear                                850   61,706 in all

It differs from the paper where the usual implementations do: every map of C3 sees all of S2 (table 1 of the paper
leaves some out, to break the symmetry and to save time); S2 and S4 have no coefficient and bias; the output is linear
with a softmax, not a distance to hand-drawn codes (RBF). `lenet5_tanh` has the paper's scaled tanh and mean pooling;
`lenet5` has ReLU and max pooling instead, which learn digits slightly better: trained on 6,000 digits and tested on
1,000, four runs of the former reached 0.979 to 0.987, four of the latter 0.984 to 0.989.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import SelectAdaptivePool2d  # type: ignore[attr-defined]
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

LUMA = (0.299, 0.587, 0.114)
"""The weights of red, green and blue in grey (ITU-R BT.601), as in Pillow's mode L."""


class Grey(nn.Module):
    """RGB [N, 3, H, W] to grey [N, 1, H, W]; it has no parameters and is not in the state dict."""

    luma: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("luma", torch.tensor(LUMA).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the weighted sum of the channels; if all are normalised alike, a grey image keeps its values."""
        return (x_NCHW * self.luma).sum(1, keepdim=True)


class ScaledTanh(nn.Module):
    """1.7159 tanh(2/3 x): 1 at 1 and -1 at -1, the points of maximum curvature (LeCun et al. 1998, appendix A)."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to each element."""
        return 1.7159 * torch.tanh(2 / 3 * x)


class LeNet5(nn.Module):
    """The network above with the methods that timm expects of a model.

    C5 is a convolution, as in the paper, so for larger images its output has several positions, which are pooled.
    Images smaller than 32 x 32 are too small for it.

    Args:
        in_chans: 3 channels are converted to grey; any other number goes to C1 unchanged.
        global_pool: how the positions of C5 are pooled: avg, max or avgmax.
        act_layer: creates an activation. pool_layer: creates the pooling of S2 and S4 from its side.
    """

    num_features = 120

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        act_layer: Callable[[], nn.Module] = nn.ReLU,
        pool_layer: Callable[[int], nn.Module] = nn.MaxPool2d,
    ) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.head_hidden_size = num_classes, in_chans, 84
        self.feature_info = [
            {"num_chs": 6, "reduction": 1, "module": "act1"},
            {"num_chs": 16, "reduction": 2, "module": "act3"},
            {"num_chs": 120, "reduction": 4, "module": "act5"},
        ]
        self.grey = Grey() if in_chans == 3 else nn.Identity()
        self.c1 = nn.Conv2d(1 if in_chans == 3 else in_chans, 6, 5)
        self.act1 = act_layer()
        self.s2 = pool_layer(2)
        self.c3 = nn.Conv2d(6, 16, 5)
        self.act3 = act_layer()
        self.s4 = pool_layer(2)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.act5 = act_layer()
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=True)
        self.f6 = nn.Linear(120, 84)
        self.act6 = act_layer()
        self.head_drop = nn.Dropout(drop_rate)
        self.output = _classifier(num_classes)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """Return the output of C5, [N, 120, H / 4 - 7, W / 4 - 7]."""
        x = self.s2(self.act1(self.c1(self.grey(x_NCHW))))
        x = self.s4(self.act3(self.c3(x)))
        return self.act5(self.c5(x))  # type: ignore[no-any-return]

    def forward_head(self, x_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits [N, K]; with `pre_logits` the output of F6, [N, 84]."""
        x_ND = self.head_drop(self.act6(self.f6(self.global_pool(x_NCHW))))
        return x_ND if pre_logits else self.output(x_ND)  # type: ignore[no-any-return]

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Return the logits [N, K] of normalised images [N, in_chans, H, W]."""
        return self.forward_head(self.forward_features(x_NCHW))

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.output

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the network a new last layer; for 0 classes, none: the network then returns that layer's input."""
        if global_pool not in (None, self.global_pool.pool_type):
            raise ValueError("F6 comes after the pooling: create LeNet-5 with another global_pool instead")
        self.num_classes = num_classes
        self.output = _classifier(num_classes).to(self.f6.weight)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Return timm's stages: C1 is the stem, then C3, C5 and F6."""
        return {"stem": r"^c1\.", "blocks": r"^[cf]([356])\."}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refuse it: no activations are worth recomputing."""
        assert not enable, "gradient checkpointing not supported"


def _classifier(num_classes: int) -> nn.Module:
    return nn.Linear(84, num_classes) if num_classes > 0 else nn.Identity()


_CFG = {
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "crop_pct": 1.0,  # digits of 28 px are resized to 32; the paper pads them, but other images have no border
    "interpolation": "bilinear",
    "mean": (0.1307,) * 3,  # of the digits; the same for all channels, so grey stays grey
    "std": (0.3081,) * 3,
    "first_conv": "c1",
    "classifier": "output",
}
default_cfgs = generate_default_cfgs({"lenet5": _CFG, "lenet5_tanh": _CFG})


@register_model
def lenet5(pretrained: bool = False, **kwargs: Any) -> LeNet5:
    """Return LeNet-5 as it is usually taught; there are no published weights."""
    return _build("lenet5", pretrained, **kwargs)


@register_model
def lenet5_tanh(pretrained: bool = False, **kwargs: Any) -> LeNet5:
    """Return LeNet-5 with the paper's activation and pooling."""
    return _build("lenet5_tanh", pretrained, **{"act_layer": ScaledTanh, "pool_layer": nn.AvgPool2d} | kwargs)


def _build(name: str, pretrained: bool, **kwargs: Any) -> LeNet5:
    return build_model_with_cfg(LeNet5, name, pretrained, feature_cfg={"out_indices": (0, 1, 2)}, **kwargs)

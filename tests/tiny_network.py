"""A network of 1,500 parameters in timm's registry, so that whole run folders stay below 100 kB.

`import tiny_network` registers it as `tiny_for_tests`. The run folders in tests/fixtures/runs_0_1 name it: its tensors
and what it computes must stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

NAME = "tiny_for_tests"
WIDTHS = (6, 8, 12)


class TinyNetwork(nn.Module):
    """Three 3 x 3 convolutions of stride 2, each with BatchNorm and ReLU, then a mean and a linear classifier."""

    num_features = head_hidden_size = WIDTHS[-1]

    def __init__(self, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        names = ("stem", "blocks.0", "blocks.1")
        self.feature_info = [
            {"num_chs": width, "reduction": 2**number, "module": name}
            for number, (name, width) in enumerate(zip(names, WIDTHS, strict=True), 1)
        ]
        self.stem = _stage(in_chans, WIDTHS[0])
        self.blocks = nn.Sequential(_stage(WIDTHS[0], WIDTHS[1]), _stage(WIDTHS[1], WIDTHS[2]))
        self.fc = nn.Linear(WIDTHS[2], num_classes)

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        return self.blocks(self.stem(x_NCHW))

    def forward_head(self, x_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        x_ND = x_NCHW.mean((2, 3))
        return x_ND if pre_logits else self.fc(x_ND)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x_NCHW))

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(WIDTHS[2], num_classes) if num_classes > 0 else nn.Identity()

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": r"^stem\.", "blocks": r"^blocks\.(\d+)"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        assert not enable


def _stage(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def random_tensors(seed: int = 0) -> dict[str, Tensor]:
    """Return a state dict that stands in for pretrained weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = TinyNetwork()
        for name, tensor in model.state_dict().items():
            if "running_" in name:
                tensor.uniform_(0.5, 1) if "var" in name else tensor.normal_(0, 0.1)
        return model.state_dict()


default_cfgs = generate_default_cfgs(
    {
        NAME: {
            "num_classes": 10,
            "input_size": (3, 24, 24),
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
            "first_conv": "stem.0",
            "classifier": "fc",
        }
    }
)


@register_model
def tiny_for_tests(pretrained: bool = False, **kwargs: Any) -> TinyNetwork:
    return build_model_with_cfg(TinyNetwork, NAME, pretrained, feature_cfg={"out_indices": (0, 1, 2)}, **kwargs)

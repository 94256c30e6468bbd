"""GoogLeNet (Szegedy et al. 2014, "Going deeper with convolutions", sec. 5) from torchvision, as a timm model.

The tensors keep torchvision's names, so its weights load unchanged. The two auxiliary classifiers exist only for
training: they send gradients into the middle of the network and are then discarded. So the network is built without
them, and a training loop adds them while it runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from timm.layers import create_classifier  # type: ignore[attr-defined]
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torchvision.models.googlenet import BasicConv2d, InceptionAux
from torchvision.models.googlenet import GoogLeNet as TorchvisionGoogLeNet

TRUNK = (
    "conv1", "maxpool1", "conv2", "conv3", "maxpool2", "inception3a", "inception3b", "maxpool3",
    "inception4a", "inception4b", "inception4c", "inception4d", "inception4e", "maxpool4", "inception5a", "inception5b",
)  # fmt: skip
"""The modules that an image passes through, in order."""

AUXILIARY = {"aux1": ("inception4a", 512), "aux2": ("inception4d", 528)}
"""Auxiliary classifier -> the module whose output it takes, and the number of channels of that output."""


class Outputs(NamedTuple):
    """The logits [N, K] of all three classifiers, in training mode."""

    logits: Tensor
    aux1: Tensor
    aux2: Tensor


class GoogLeNet(TorchvisionGoogLeNet):  # type: ignore[misc]
    """Torchvision's network with the methods that timm expects of a model.

    Args:
        aux_logits: build the auxiliary classifiers as well; `forward` then returns `Outputs` in training mode.
        aux_drop_rate: dropout in the auxiliary classifiers (sec. 5).
    """

    num_features = head_hidden_size = 1024
    avgpool: nn.Module

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.2,
        aux_logits: bool = False,
        aux_drop_rate: float = 0.7,
    ) -> None:
        super().__init__(aux_logits=False, init_weights=True, dropout=drop_rate, dropout_aux=aux_drop_rate)
        self.num_classes, self.in_chans, self._aux_drop_rate = num_classes, in_chans, aux_drop_rate
        self.feature_info = [
            {"num_chs": 64, "reduction": 2, "module": "conv1"},
            {"num_chs": 192, "reduction": 4, "module": "conv3"},
            {"num_chs": 480, "reduction": 8, "module": "inception3b"},
            {"num_chs": 832, "reduction": 16, "module": "inception4e"},
            {"num_chs": 1024, "reduction": 32, "module": "inception5b"},
        ]
        if in_chans != 3:
            self.conv1 = BasicConv2d(in_chans, 64, kernel_size=7, stride=2, padding=3)
        self.reset_classifier(num_classes, global_pool)
        if aux_logits:
            self.add_auxiliary()

    def add_auxiliary(self) -> None:
        """Add the two auxiliary classifiers, with random weights, on the network's device."""
        like = self.conv1.conv.weight
        for name, (_, channels) in AUXILIARY.items():
            made = InceptionAux(channels, self.num_classes, dropout=self._aux_drop_rate)
            setattr(self, name, made.to(like.device, like.dtype))
        self.aux_logits = True

    def remove_auxiliary(self) -> None:
        """Remove the auxiliary classifiers."""
        self.aux1 = self.aux2 = None
        self.aux_logits = False

    def forward_features(self, x_NCHW: Tensor) -> Tensor:
        """Return the output of the last inception module, [N, 1024, H / 32, W / 32]."""
        for name in TRUNK:
            x_NCHW = getattr(self, name)(x_NCHW)
        return x_NCHW

    def forward_head(self, x_NCHW: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits [N, K]; with `pre_logits` the input of the classifier, [N, 1024]."""
        x_ND = self.dropout(self.avgpool(x_NCHW))
        return x_ND if pre_logits else self.fc(x_ND)  # type: ignore[no-any-return]

    def forward(self, x_NCHW: Tensor) -> Tensor | Outputs:
        """Return the logits [N, K]; in training mode with auxiliary classifiers, those of all three."""
        if not (self.training and self.aux_logits):
            return self.forward_head(self.forward_features(x_NCHW))
        found = {}
        for name in TRUNK:
            x_NCHW = getattr(self, name)(x_NCHW)
            for auxiliary, (after, _) in AUXILIARY.items():
                if name == after:
                    found[auxiliary] = getattr(self, auxiliary)(x_NCHW)
        return Outputs(self.forward_head(x_NCHW), **found)

    def get_classifier(self) -> nn.Module:
        """Return the last layer."""
        return self.fc  # type: ignore[no-any-return]

    @property
    def global_pool(self) -> nn.Module:
        """timm's name for torchvision's `avgpool`."""
        return self.avgpool

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Give the network a new last layer; for 0 classes, none: the network then returns that layer's input."""
        self.num_classes = num_classes
        pool, like = global_pool or str(self.avgpool.pool_type), self.conv1.conv.weight
        self.avgpool, self.fc = create_classifier(1024, num_classes, pool, device=like.device, dtype=like.dtype)
        if self.aux_logits:
            self.add_auxiliary()

    def group_matcher(self, coarse: bool = False) -> Callable[[str], float]:
        """Return timm's stages: the stem, then the inception modules 3, 4 and 5; unless `coarse`, each by itself."""

        def layer(name: str) -> float:
            module = name.partition(".")[0]
            module = AUXILIARY.get(module, (module,))[0]
            if module not in TRUNK:
                return float("inf")
            if not coarse:
                return TRUNK.index(module)
            return int(module[len("inception")]) if module.startswith("inception") else 0

        return layer

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refuse it, as most of timm's networks of that era do."""
        assert not enable, "gradient checkpointing not supported"


default_cfgs = generate_default_cfgs({
    "googlenet.tv_in1k": {
        # torchvision's file was trained on pixels from -1 to 1, for which torchvision has `transform_input`
        "url": "https://download.pytorch.org/models/googlenet-1378be20.pth",
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bilinear",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "first_conv": "conv1.conv",
        "classifier": "fc",
        "license": "bsd-3-clause",
        "origin_url": "https://github.com/pytorch/vision",
    },
})  # fmt: skip


@register_model
def googlenet(pretrained: bool = False, **kwargs: Any) -> GoogLeNet:
    """Return GoogLeNet, with its auxiliary classifiers only if `aux_logits` is set."""
    return build_model_with_cfg(GoogLeNet, "googlenet", pretrained, pretrained_filter_fn=_without_auxiliary, **kwargs)


def _without_auxiliary(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Drop the auxiliary classifiers of torchvision's file if the network has none."""
    return state if model.aux_logits else {k: t for k, t in state.items() if k.partition(".")[0] not in AUXILIARY}

"""A timm model as a backbone and a classifier, its last linear layer; and how pixels become its input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from timm.layers import convert_sync_batchnorm  # type: ignore[attr-defined]
from torch import Tensor, nn

from cnn_tl.core.device import exact_fp32
from cnn_tl.core.errors import CnnTlError, ResourceError, UsageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.seeds import seed_of
from cnn_tl.networks.info import NetworkInfo, Remembered, tensors_digest
from cnn_tl.networks.pretrained import weights
from cnn_tl.networks.timm_model import config_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass
class Network:
    """A model ready to train: a pretrained backbone under a fresh classifier.

    Attributes:
        name: the name in timm's registry, with its tag if one was given.
        model: the timm model, on the CPU, float32.
        preprocessing: of its images.
        source: where its weights came from.
        loading_seconds: how long it took to load torch and timm, and to make the graph of the backbone for onnxruntime;
            almost nothing if they were there already.
    """

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    source: weights.Source
    loading_seconds: float = 0.0


def build(name: str, source: weights.Source, *, num_classes: int, image_size: int | None, seed: int) -> Network:
    """Create a timm model with the weights of `source` and a fresh classifier for `num_classes`.

    Random initialisation is a function of `seed` alone; the global random generators stay untouched.

    Raises:
        UsageError: unknown model, or an image size that it cannot take.
        ArtefactError: the weights belong to another model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, "weights"))  # torch.manual_seed would also seed the GPU's
        model = weights.create(name, source, image_size=image_size)
        preprocessing = Preprocessing.from_pretrained_cfg(model.pretrained_cfg, image_size)  # type: ignore[arg-type]
        torch.default_generator.manual_seed(seed_of(seed, "head"))
        model.reset_classifier(num_classes)  # type: ignore[operator]
    return Network(name, model, preprocessing, source)


def describe(network: Network, num_features: int = 0) -> Remembered:
    """Return what is known about a network.

    Args:
        num_features: the number of inputs of its classifier, if that is one linear layer for which a head may be
            fitted.
    """
    from timm import __version__

    model = network.model
    names = _classifier_names(model)
    inside = tuple(f"{name}." for name in names)
    tensors = backbone_tensors(model)
    config = config_of(model, network.preprocessing)
    info = NetworkInfo(
        name=network.name,
        architecture=config["architecture"],
        arguments={key: value for key, value in config.get("model_args", {}).items() if key != "num_classes"},
        timm=__version__,
        weights=network.source.description,
        preprocessing=network.preprocessing,
        backbone_sha256=tensors_digest(tensors),
        num_features=num_features,
        backbone_parameters=sum(p.numel() for name, p in model.named_parameters() if not name.startswith(inside)),
        classifier=names[0],
        convolution=isinstance(model.get_submodule(names[0]), nn.Conv2d),
        config=config,
    )
    published = network.source.kind in ("package", "hub")
    return Remembered(info, network.source.path, tensors, weights.published(network.name) if published else None)


def backbone_tensors(model: nn.Module) -> dict[str, NDArray[Any]]:
    """Return the parameters and buffers of everything but the classifier, as numpy arrays by name."""
    inside = tuple(f"{name}." for name in _classifier_names(model))
    return {k: t.detach().cpu().numpy() for k, t in model.state_dict().items() if not k.startswith(inside)}


def _classifier_names(model: nn.Module) -> list[str]:
    found = model.get_classifier()  # type: ignore[operator]
    last = found if isinstance(found, tuple | list) else [found]  # distilled models have two
    return [name for name, module in model.named_modules() if any(module is one for one in last)]


def linear_classifier(model: nn.Module) -> nn.Linear | nn.Conv2d:
    """Return the model's last layer: a `Linear`, or the 1x1 convolution on pooled features that some families use.

    Raises:
        UsageError: the model ends in something else, such as two distilled heads.
    """
    classifier = model.get_classifier()  # type: ignore[operator]
    if isinstance(classifier, nn.Linear) or (isinstance(classifier, nn.Conv2d) and classifier.kernel_size == (1, 1)):
        return classifier
    raise UsageError(
        f"{type(model).__name__} does not end in one linear classifier, so no head can be fitted on its features; "
        "use --mode finetune, or another --model"
    )


def set_linear_classifier(model: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Copy a linear head, weight [K, D] and bias [K], into the model's classifier."""
    classifier = linear_classifier(model)
    if classifier.bias is None:
        classifier.bias = nn.Parameter(classifier.weight.new_zeros(len(bias)))
    with torch.no_grad():
        classifier.weight.copy_(weight.reshape(classifier.weight.shape))
        classifier.bias.copy_(bias)


@contextmanager
def without_classifier(model: nn.Module) -> Iterator[None]:
    """Inside the block, let `model(x)` return the classifier's input: the features [N, D] (or [N, D, 1, 1])."""
    classifier = linear_classifier(model)
    name = keep_without_classifier(model)
    try:
        yield
    finally:
        model.set_submodule(name, classifier)


@contextmanager
def classifier_in_fp32(model: nn.Module) -> Iterator[None]:
    """Inside the block, let the model's classifier compute in float32, whatever autocast chooses for the rest.

    In bf16, logits near 10 are multiples of 1/16: many would be equal.
    """
    originals = {name: model.get_submodule(name) for name in _classifier_names(model)}
    keep_classifier_in_fp32(model)
    try:
        yield
    finally:
        for name, module in originals.items():
            model.set_submodule(name, module)


def keep_classifier_in_fp32(model: nn.Module) -> None:
    """Do for good what `classifier_in_fp32` does; the names of the classifier's tensors change."""
    for name in _classifier_names(model):
        model.set_submodule(name, _InFloat32(model.get_submodule(name)))


class _InFloat32(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            outputs: Tensor = self.module(x.float())
            return outputs


def keep_without_classifier(model: nn.Module) -> str:
    """Do for good what `without_classifier` does, and return the classifier's name inside the model."""
    classifier = linear_classifier(model)
    name: str = next(name for name, module in model.named_modules() if module is classifier)
    model.set_submodule(name, nn.Identity())
    return name


def classify(model: nn.Module, features_ND: Tensor) -> Tensor:
    """Return the logits [N, K] of the model's classifier for features [N, D]."""
    classifier = linear_classifier(model)
    if isinstance(classifier, nn.Conv2d):
        features_ND = features_ND[:, :, None, None]
    logits: Tensor = classifier(features_ND)
    return logits.flatten(1)


@contextmanager
def tried(line: str, *, shown: bool = True) -> Iterator[None]:
    """Turn whatever a network's own code raises in the block into one line.

    Args:
        line: what the network cannot do.
        shown: append the error's own message.

    Raises:
        UsageError: the network raised something.
        ResourceError, MemoryError: memory ran out, which says nothing about the network.
    """
    try:
        yield
    except (CnnTlError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "can't allocate memory" in str(error):
            raise
        words = " ".join(str(error).split())[:200]
        why = f": {words or type(error).__name__}; use another --image-size or --model" if shown else ""
        raise UsageError(f"{line}{why}") from error


def require_linear_classifier(network: Network) -> int:
    """Check with one image of noise that a head can be fitted on this model's features; return their number, D.

    Raises:
        UsageError: the model does more after its features than one linear layer.
    """
    linear_classifier(network.model)
    spec = network.preprocessing
    model = network.model.eval()
    x_NCHW = torch.rand(1, 3, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
    x_NCHW = x_NCHW.to(linear_classifier(model).weight.device)
    more = (
        f"{network.name} does more than one linear layer after its features, so no head can be fitted on them; "
        "use --mode finetune, or another --model"
    )
    with torch.inference_mode(), _without_cudnn(x_NCHW.device):
        with tried(f"{network.name} cannot answer for an image of {spec.height} x {spec.width} px"):
            whole = model(x_NCHW)
        with tried(more, shown=False):
            with without_classifier(model):
                features_ND = model(x_NCHW).flatten(1)
            fits = features_ND.shape[1] == linear_classifier(model).weight.shape[1]
            alike = fits and torch.allclose(classify(model, features_ND), whole, rtol=1e-3, atol=1e-4)
    if not alike:
        raise UsageError(more)
    return int(features_ND.shape[1])


@contextmanager
def _without_cudnn(device: torch.device) -> Iterator[None]:
    """Compute without cuDNN on CUDA: it would look for the fastest kernels for seconds, for one image."""
    before = torch.backends.cudnn.enabled
    if device.type == "cuda":
        torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


def to_input(pixels: np.ndarray[Any, Any], spec: Preprocessing, device: torch.device) -> Tensor:
    """Turn uint8 pixels [N, H, W, 3] into the normalised input [N, 3, H, W] on `device`, channels last.

    The pixels are copied as bytes and normalised on the device.
    """
    return normalised(to_device(pixels, device), spec)


def to_device(pixels: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """Copy an array to the device; on CUDA without waiting for the copy."""
    tensor = torch.from_numpy(pixels)
    if device.type == "cuda":
        tensor = tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def normalised(bytes_NHW3: Tensor, spec: Preprocessing) -> Tensor:
    """Turn uint8 pixels [N, H, W, 3] on a device into the network's input [N, 3, H, W], channels last."""
    device = bytes_NHW3.device
    mean, std = torch.tensor((spec.mean, spec.std)) * 255  # for pixels of 0 to 255
    constants = torch.stack([mean, 1 / std]).to(device, non_blocking=device.type == "cuda")  # else CUDA would wait
    x_NCHW = bytes_NHW3.float().sub_(constants[0]).mul_(constants[1]).permute(0, 3, 1, 2)
    return x_NCHW.contiguous() if device.type == "mps" else x_NCHW


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move the model to the device, channels last except on MPS, where that is slower; make float32 exact."""
    exact_fp32()
    if device.type == "mps":
        return model.to(device)
    return model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def require_synchronisable(device: torch.device) -> None:
    """Refuse a device on which BatchNorm cannot compute its statistics over the images of all processes.

    Raises:
        ResourceError: the device is not a CUDA GPU; torch synchronises statistics only between those.
    """
    if device.type != "cuda":
        raise ResourceError(f"model.bn: sync needs CUDA, and this run is on {device.type}; set model.bn: train or eval")


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """Return the model with each BatchNorm computing its statistics over the images of all processes.

    Raises:
        ResourceError: see `require_synchronisable`.
    """
    require_synchronisable(device)
    return convert_sync_batchnorm(model)  # type: ignore[no-untyped-call,no-any-return]


def is_depthwise(model: nn.Module) -> bool:
    """Return whether the model has depthwise convolutions; on CPUs, bf16 does not make training such models faster."""
    return any(isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels for m in model.modules())

"""A training loop beside the same steps written out with torch's own optimisers, losses and schedules.

A head on held features, all images in one batch, so that nothing is left to chance: after a few steps the weights
have to be those of a loop of ten lines. So each number of a recipe is shown to be taken for what it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from whole_runs import metrics, newest_checkpoint

from cnn_tl.data.folders.scan import scan
from cnn_tl.data.views import transforms
from cnn_tl.networks import backbone
from cnn_tl.networks.pretrained.weights import Source
from cnn_tl.recipe import Recipe
from cnn_tl.training.run import train

Make = Callable[..., Recipe]
Loss = Callable[[Tensor, Tensor], Tensor]
EPOCHS = 8
LR = 0.05
PLAIN = {
    "head_start": "random", "epochs": EPOCHS, "steps": None, "batch_size": 64, "optimizer": "sgd", "lr": LR,
    "head_lr_factor": 1, "weight_decay": 0, "schedule": "constant", "warmup": 0, "label_smoothing": 0,
    "clip_grad": 1e9, "temperature": "none",
}  # fmt: skip


@dataclass
class Start:
    """What both loops begin with: features [N, D] and labels [N] of the training images, and a random head."""

    features: Tensor
    labels: Tensor
    weight: Tensor
    bias: Tensor

    def head(self) -> nn.Linear:
        made = nn.Linear(self.weight.shape[1], len(self.weight))
        with torch.no_grad():
            made.weight.copy_(self.weight)
            made.bias.copy_(self.bias)
        return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("like torch")


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    draw = np.random.default_rng(0)
    for label, (name, count) in enumerate({"ash": 20, "birch": 15, "cedar": 10}.items()):
        (place / "data" / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(draw.normal(60 * label + 60, 40, (24, 24, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(place / "data" / name / f"{number}.png")
    return place / "data"


@pytest.fixture(autouse=True)
def own_cache(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the features be computed once for all."""
    monkeypatch.setenv("CNN_TL_CACHE", str(place / "cache"))
    return place / "cache"


@pytest.fixture(scope="module")
def start(data: Path, tiny_weights: Path) -> Start:
    network = backbone.build("test_resnet", Source("file", tiny_weights, ""), num_classes=3, image_size=64, seed=0)
    manifest, spec = scan(data, seed=0, val_fraction=0.2), network.preprocessing
    images = manifest.of("train")
    pixels = [torch.tensor(transforms.read_pixels(manifest.file(image), spec)) for image in images]
    mean, std = torch.tensor(spec.mean)[:, None, None], torch.tensor(spec.std)[:, None, None]
    x_NCHW = (torch.stack(pixels).permute(0, 3, 1, 2) / 255 - mean) / std
    model = network.model.eval()
    with torch.no_grad():
        features = model.forward_head(model.forward_features(x_NCHW), pre_logits=True)  # type: ignore[operator]
    labels = torch.tensor([image.label for image in images])
    return Start(features, labels, model.fc.weight.detach(), model.fc.bias.detach())  # type: ignore[union-attr,operator]


def cross_entropy(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    return F.cross_entropy(logits_NK, labels_N)


def theirs(
    start: Start,
    optimizer: Callable[[nn.Linear], torch.optim.Optimizer],
    *,
    loss: Loss = cross_entropy,
    rates: Sequence[float] = (LR,) * EPOCHS,
    factor: float = 1,
    clip: float = 1e9,
    ema: float = 0,
) -> tuple[nn.Module, list[float]]:
    """Return the head after a step for each of the rates, and the loss of each step."""
    head = start.head()
    average = ModelEmaV3(head, ema, use_warmup=True) if ema else None
    made, losses = optimizer(head), []
    for number, rate in enumerate(rates, 1):
        for group in made.param_groups:
            group["lr"] = factor * rate
        value = loss(head(start.features), start.labels)
        made.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(head.parameters(), clip)
        made.step()
        losses.append(value.item())
        if average is not None:
            average.update(head, step=number)
    return (average.module if average is not None else head), losses


def sgd(momentum: float) -> Callable[[nn.Linear], torch.optim.Optimizer]:
    return lambda head: torch.optim.SGD(head.parameters(), LR, momentum=momentum, nesterov=True)


def adamw(decay: float) -> Callable[[nn.Linear], torch.optim.Optimizer]:
    return lambda head: torch.optim.AdamW(
        [{"params": [head.weight], "weight_decay": decay}, {"params": [head.bias], "weight_decay": 0.0}], LR
    )


def one_cycle(warmup: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], LR)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LR, total_steps=EPOCHS, pct_start=warmup, cycle_momentum=False
    )
    rates = []
    for _ in range(EPOCHS):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        if len(rates) < EPOCHS:
            schedule.step()
    return rates


def smoothed(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    return F.cross_entropy(logits_NK, labels_N, label_smoothing=0.3)


def balanced(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    weights = compute_class_weight("balanced", classes=np.arange(3), y=labels_N.numpy())
    weights_K = torch.tensor(weights, dtype=torch.float32)
    return F.cross_entropy(logits_NK, labels_N, weights_K, reduction="none", label_smoothing=0.2).mean()


def focal(logits_NK: Tensor, labels_N: Tensor) -> Tensor:
    """Lin et al. 2017, eq. 5, with a weight of 4 for the second class, and weights of 1 on average."""
    weights_N = torch.tensor([1.0, 4.0, 1.0])[labels_N]
    p_N = logits_NK.softmax(1)[torch.arange(len(labels_N)), labels_N]
    return -(weights_N / weights_N.mean() * (1 - p_N) ** 1.5 * p_N.log()).mean()


HALVED = [LR * share for share in (1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125)]
WARM_COSINE = [LR * n / 3 for n in (1, 2)] + [LR * (1 + math.cos(math.pi * n / 6)) / 2 for n in range(6)]

CASES: dict[str, tuple[dict[str, Any], Callable[[Start], tuple[nn.Module, list[float]]]]] = {
    "one-cycle, smoothing, micro-batches": (
        {"schedule": "one-cycle", "warmup": 0.4, "label_smoothing": 0.3, "head_lr_factor": 4, "micro_batch": 5},
        lambda start: theirs(start, sgd(0.9), loss=smoothed, rates=one_cycle(0.4), factor=4),
    ),
    "adamw, decay, balanced": (
        {"optimizer": "adamw", "weight_decay": 2, "schedule": "step", "decay_every": 0.25, "decay_rate": 0.5}
        | {"class_weights": "balanced", "label_smoothing": 0.2},
        lambda start: theirs(start, adamw(2), loss=balanced, rates=HALVED),
    ),
    "clipping, cosine, average": (
        {"clip_grad": 0.3, "schedule": "cosine", "warmup": 0.25, "ema": 0.3},
        lambda start: theirs(start, sgd(0.9), rates=WARM_COSINE, clip=0.3, ema=0.3),
    ),
    "focal, named weights, momentum, steps": (
        {"loss": "focal", "focal_gamma": 1.5, "class_weights": {"birch": 4}, "momentum": 0.3}
        | {"epochs": None, "steps": 3},
        lambda start: theirs(start, sgd(0.3), loss=focal, rates=(LR,) * 3),
    ),
}
"""Each number is one that leaves its mark: without it, or with another one, the weights would be others."""


@pytest.mark.parametrize("name", CASES)
def test_each_number_of_the_recipe_is_taken_for_what_it_says(
    recipe: Make, tmp_path: Path, start: Start, name: str
) -> None:
    settings, written_out = CASES[name]
    made = recipe(
        "finetune",
        train=PLAIN | settings,
        model={"freeze": "head"},
        features={"views": 1},
        run={"precision": "fp32"},
    )
    train(made, tmp_path / "run")
    checkpoint = newest_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    ours = load_file(checkpoint / ("ema.safetensors" if "ema" in settings else "model.safetensors"))
    head, losses = written_out(start)
    for own, tensor in head.state_dict().items():
        torch.testing.assert_close(ours[f"fc.{own}"], tensor, atol=2e-5, rtol=1e-3)
    assert [row["loss"] for row in metrics(tmp_path / "run")] == pytest.approx(losses, rel=1e-3)
    moved = (ours["fc.weight"] - start.weight).norm() / start.weight.norm()
    assert moved > 0.01, "or the comparison would say nothing"

"""What a run is about to do, and about how long it will take on this machine."""

from __future__ import annotations

import time

import numpy as np
import torch

from cnn_tl.data.manifest import Manifest
from cnn_tl.errors import printable
from cnn_tl.networks import freeze
from cnn_tl.networks.backbone import Network, is_depthwise, place, to_input
from cnn_tl.progress import Plan
from cnn_tl.recipe import Recipe
from cnn_tl.runtime import Precision, autocast, default_workers, has_fast_bf16
from cnn_tl.training.run_folder import RunFolder

BACKWARD_COST = 3.0
"""A training step costs about this many forward passes: forward, and two products of that size for the gradients."""

DECODE_SECONDS = 0.004
"""One picture of ordinary size through Pillow on one thread."""


def choose_precision(recipe: Recipe, network: Network, device: torch.device) -> Precision:
    """Return the number format of the training part.

    bf16 where the device multiplies it in hardware. On CPUs it does not pay for training depthwise convolutions
    (measured: tf_efficientnet_lite0 17.8 img/s against 18.8; resnet18 35.0 against 17.9). A fixed rule rather than a
    stopwatch, so that the same recipe gives the same weights twice.
    """
    if recipe.run.precision != "auto":
        return recipe.run.precision
    slow = recipe.mode != "freeze" and device.type == "cpu" and is_depthwise(network.model)
    return "bf16" if has_fast_bf16(device) and not slow else "fp32"


def make_plan(
    recipe: Recipe, manifest: Manifest, network: Network, device: torch.device, precision: Precision, run: RunFolder
) -> Plan:
    """Describe the run, with a duration measured on a few pictures of noise."""
    freeze.apply(network.model, "head" if recipe.mode == "freeze" else "all")
    trainable, total = freeze.count_parameters(network.model)
    spec = network.preprocessing
    return Plan(
        mode=recipe.mode,
        data=printable(recipe.data.path or manifest.root),
        layout=manifest.layout,
        counts=manifest.counts(),
        set_aside=len(manifest.set_aside),
        backbone=network.name,
        weights=network.source.description,
        image_size=(spec.height, spec.width),
        trainable=trainable,
        total=total,
        device=_describe(device),
        precision=precision,
        schedule=_schedule(recipe, len(manifest.of("train"))),
        seconds=_expected_seconds(recipe, manifest, network, device, precision),
        output=printable(run.path),
    )


def _schedule(recipe: Recipe, pictures: int) -> str:
    settings = recipe.train
    if recipe.mode == "freeze":
        return f"one pass for each picture, then the head ({recipe.head.kind})"
    assert settings.epochs is not None
    assert settings.batch_size is not None
    steps = settings.epochs * -(-pictures // settings.batch_size)
    epochs = f"{settings.epochs} epoch{'s' if settings.epochs > 1 else ''}"
    return f"{epochs}, {steps} steps of up to {settings.batch_size}, peak learning rate {settings.lr:g}"


def _expected_seconds(
    recipe: Recipe, manifest: Manifest, network: Network, device: torch.device, precision: Precision
) -> float:
    train, val = len(manifest.of("train")), len(manifest.of("val"))
    threads = min(recipe.run.workers or default_workers(), default_workers())
    decode = DECODE_SECONDS / threads
    fast = max(_seconds_per_picture(network, device, precision), decode)
    exact = max(_seconds_per_picture(network, device, "fp32"), decode)
    if recipe.mode == "freeze":
        return train * fast + val * exact + 1
    assert recipe.train.epochs is not None
    return (train + val) * decode + recipe.train.epochs * (train * fast * BACKWARD_COST + val * exact)


def _seconds_per_picture(network: Network, device: torch.device, precision: Precision, pictures: int = 4) -> float:
    """Time one forward pass of a small batch, after one that warms up."""
    spec = network.preprocessing
    noise = np.random.default_rng(0).integers(0, 256, (pictures, spec.height, spec.width, 3), dtype=np.uint8)
    model = place(network.model, device).eval()
    x_NCHW = to_input(noise, spec, device)
    with torch.inference_mode(), autocast(device, precision):
        model(x_NCHW)
        started = time.perf_counter()
        model(x_NCHW).sum().item()
    return (time.perf_counter() - started) / pictures


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"{device.type} ({torch.get_num_threads()} threads)" if device.type == "cpu" else device.type

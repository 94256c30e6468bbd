"""The precision of a training loop: from the recipe, or measured once and then stored.

No precision is fastest everywhere (measured on two cores, img/s in fp32 and bf16: tf_efficientnet_lite0 18.8 and 17.8,
resnet18 17.9 and 35.0). But the same recipe must give the same weights on the same machine. So the measurement is
stored in the cache, with the network's description, and a resumed run keeps its precision. If nothing can be stored,
and on CUDA, a fixed rule decides.
"""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cnn_tl.cache.inventory import touch
from cnn_tl.core import files
from cnn_tl.core.cpu import release_freed_memory
from cnn_tl.core.device import Precision, autocast, has_fast_bf16, is_out_of_memory
from cnn_tl.core.errors import CnnTlError
from cnn_tl.features import devices
from cnn_tl.networks.info import LOOP

if TYPE_CHECKING:
    import torch

    from cnn_tl.networks.backbone import Network
    from cnn_tl.recipe.resolved import LoopRecipe
    from cnn_tl.training.context import Run
    from cnn_tl.training.lazy_network import LazyNetwork

PRECISIONS: tuple[Precision, Precision] = ("fp32", "bf16")

BF16_SHARE = 0.9
"""bf16 is chosen if it needs less than this share of the time of fp32; in a tie fp32 is exact."""

LONGEST = 1e6
"""Seconds; a larger value in a file is invalid."""

ROUNDS = 3
"""Number of alternating measurements of each precision; the best time counts."""

CLEAR_RATIO = 2.0
"""If one precision takes this many times as long as the other, one round is enough."""


def loop_precision(run: Run[LoopRecipe], network: LazyNetwork) -> Precision:
    """Return the precision of the training steps, the same in all processes; validation is always in float32.

    A run that writes nothing does not store its measurement, so a later run may measure again.
    """
    began = precision_in_checkpoints(run.folder.checkpoints, network.device) if run.is_resumed else None
    return run.world.first(lambda: _loop_precision(run, network, began))


def _loop_precision(run: Run[LoopRecipe], network: LazyNetwork, began: Precision | None) -> Precision:
    recipe, device = run.recipe, network.device
    if recipe.run.precision != "auto":
        return recipe.run.precision
    if began is not None:
        return began
    if device.type == "cuda" or not has_fast_bf16(device):
        return by_rule(network.build(), device)
    loop = [recipe.run.device, recipe.model.freeze, recipe.model.unfreeze or None, recipe.model.bn]
    file = network.cache_folder / devices.file_name(str(loop), LOOP)
    if (known := _recall(file, device)) is not None:
        return known
    seconds = None
    if recipe.features.cache:
        with run.observer.task("measuring this machine", None):
            seconds = seconds_of_a_step(network.build(), device)
    if seconds is None:
        return by_rule(network.build(), device)
    if (known := _recall(file, device)) is not None:  # another process was quicker
        return known
    if run.writes and not _keep(file, device, seconds, recipe.model.name):
        return by_rule(network.build(), device)
    return faster(seconds)


def precision_in_checkpoints(checkpoints: Path, device: torch.device) -> Precision | None:
    """Return the precision of the run with these checkpoints, if it ran on this kind of device, else None."""
    by_text: dict[str, Precision] = {f"{name} on {device.type}": name for name in PRECISIONS}
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        with contextlib.suppress(CnnTlError, KeyError, TypeError):
            return by_text.get(files.read_json(folder / "state.json")["progress"]["computed"])
    return None


def find(network: Network, device: torch.device) -> Precision:
    """Measure a step in each precision and return the faster one for this device."""
    measured = device.type != "cuda" and has_fast_bf16(device)
    seconds = seconds_of_a_step(network, device) if measured else None
    return faster(seconds) if seconds else by_rule(network, device)


def by_rule(network: Network, device: torch.device) -> Precision:
    """Return the usually faster precision: bf16 if the device supports it, but fp32 for depthwise networks on CPUs."""
    from cnn_tl.networks.backbone import is_depthwise

    slow = device.type == "cpu" and is_depthwise(network.model)
    return "bf16" if has_fast_bf16(device) and not slow else "fp32"


def faster(seconds: Mapping[str, float]) -> Precision:
    """Return the faster precision; bf16 must be clearly faster than the exact float32."""
    return "bf16" if seconds["bf16"] < BF16_SHARE * seconds["fp32"] else "fp32"


def seconds_of_a_step(network: Network, device: torch.device) -> dict[str, float] | None:
    """Measure forward and backward pass of the trainable parameters in each precision; None if memory runs out.

    Returns:
        Precision -> seconds per image.
    """
    import torch

    from cnn_tl.networks import freeze_policies
    from cnn_tl.networks.backbone import place, to_input

    try:
        with torch.random.fork_rng(devices=[]):
            model = place(copy.deepcopy(network.model), device)
            freeze_policies.train_mode(model)
            pixels = devices.noise(network.preprocessing, 8)
            x_NCHW = to_input(pixels, network.preprocessing, device)
            best = dict.fromkeys(PRECISIONS, math.inf)
            for number in range(ROUNDS + 1):  # the first one warms up
                for precision in PRECISIONS:
                    took = _seconds(model, x_NCHW, precision) / len(pixels)
                    best[precision] = min(best[precision], took) if number else math.inf
                if number and max(best.values()) > CLEAR_RATIO * min(best.values()):
                    break
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    finally:
        release_freed_memory()
    return {str(precision): took for precision, took in best.items()}


def _seconds(model: torch.nn.Module, x_NCHW: torch.Tensor, precision: Precision) -> float:
    import torch

    started = time.perf_counter()
    with autocast(x_NCHW.device, precision):
        outputs = model(x_NCHW)
    each: Sequence[torch.Tensor] = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
    sum(logits_NK.float().square().mean() for logits_NK in each).backward()  # type: ignore[union-attr]
    model.zero_grad()
    return time.perf_counter() - started


def _recall(file: Path, device: torch.device) -> Precision | None:
    """Return the faster precision by a stored measurement, if it is of this hardware and plausible."""
    try:
        found = files.read_json(file)
        seconds = {str(name): found["seconds"][name] for name in PRECISIONS}
        makes_sense = all(isinstance(took, float) and 0 < took < LONGEST for took in seconds.values())
        if not makes_sense or found["hardware"] != devices.hardware_of(device):
            return None
    except (CnnTlError, KeyError, TypeError):
        return None
    touch(file.parent)  # mark it as just used, so that it is evicted last
    return faster(seconds)


def _keep(file: Path, device: torch.device, seconds: dict[str, float], model: str) -> bool:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        files.write_json(file, {"model": model, "hardware": devices.hardware_of(device), "seconds": seconds})
    except (CnnTlError, OSError):
        return False
    return True

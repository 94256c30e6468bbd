"""Chooses how to run a frozen network: on CUDA by rule, elsewhere by a measurement of about a second.

The measurement decides about the precision, the batch size on MPS, and compilation. It is kept beside the features, so
the same recipe on the same machine makes the same choice again, and a second run measures nothing.

On CUDA bf16 is faster wherever the hardware multiplies it, batches of some hundred images fill the card, and what
limits embedding is decoding: compiling would not repay its time. So nothing is measured there.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cnn_tl.core import files
from cnn_tl.core.cpu import default_workers, processor
from cnn_tl.core.device import Precision, WantedPrecision, inference_precision, nvidia_devices
from cnn_tl.core.errors import CnnTlError
from cnn_tl.core.formatting import counted
from cnn_tl.features.cuda_batch_size import cuda_batch_size

if TYPE_CHECKING:
    import torch

    from cnn_tl.core.preprocessing import Preprocessing
    from cnn_tl.features.engine import Engine
    from cnn_tl.features.stream import Pixels
    from cnn_tl.networks.backbone import Network

Compile = Literal["auto", "never", "always"]

BATCH_SIZE = 16
"""The batch size on CPUs. It is fixed, because it affects the last bits of the features, which must not depend on a
measurement. Of eight combinations of network and precision on one thread, five were fastest with it; 8 and 32 were up
to
a third slower."""

UNMEASURED = 32
"""The batch size on MPS before it is measured."""

BATCH_SIZES = {"cpu": (16, 32), "mps": (16, 32, 64, 128)}

CUDA_SECONDS = 1 / 2000
"""Seconds for one image on CUDA, for the estimate of a plan: an ordinary network on an ordinary card."""

BF16_SHARE = 0.9
"""bf16 is chosen if it needs less than this share of the time of fp32; in a tie fp32 is exact."""

WORTH_COMPILING = 400.0
"""Seconds of uncompiled work from which it is worth half a minute to find out whether compiling pays."""

MEASURED_SECONDS = 0.1

LONGEST = 1e6
"""Seconds; a larger value in a file is invalid."""


@dataclass(frozen=True)
class Speeds:
    """Measured speeds.

    Attributes:
        device: "cpu", "cuda" or "mps". device_name: the same in words.
        seconds: per image, for each way ("fp32", "bf16", "bf16, compiled"); none on CUDA.
        batch_size: the fastest one on MPS; None if it was not measured.
        compile_seconds: the time for compiling, for each compiled way; -1 if it failed.
        precision: the final decision for `auto`; None: it follows from `seconds`.
    """

    device: str
    device_name: str
    seconds: dict[str, float] = field(default_factory=dict)
    batch_size: int | None = None
    compile_seconds: dict[str, float] = field(default_factory=dict)
    precision: Precision | None = None

    @property
    def hardware(self) -> str:
        """The name of the device, which does not change with its settings."""
        return self.device_name if self.device == "cuda" else processor()

    def at_once(self, spec: Preprocessing) -> int:
        """Return the batch size for images of this size."""
        if self.device == "cuda":
            return cuda_batch_size(spec)
        return BATCH_SIZE if self.device == "cpu" else self.batch_size or UNMEASURED

    def seconds_of(self, way: Way) -> float:
        """Return an estimate of the seconds for one image."""
        return self.seconds.get(str(way), self.seconds.get("fp32", CUDA_SECONDS))

    def is_of(self, device: torch.device) -> bool:
        """Return whether this device was measured."""
        return (self.device, self.hardware) == (device.type, hardware_of(device))

    def lacks(self, precisions: Sequence[Precision]) -> bool:
        """Return whether something is left to measure in these precisions."""
        if self.device == "cuda":
            return False
        return not self.seconds.keys() >= set(precisions) or (self.batch_size is None and self.device != "cpu")


@dataclass(frozen=True)
class Way:
    """How the network runs: in which precision, and whether compiled."""

    precision: Precision
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.precision}, compiled" if self.compiled else self.precision


def by_rule(device: torch.device) -> Speeds:
    """Return what is known of a CUDA device: its name, and that bf16 is faster where the hardware multiplies it."""
    return Speeds(device.type, describe(device), precision=inference_precision(device, "auto"))


def way_of_predict(speeds: Speeds, wanted: WantedPrecision) -> Way:
    """Return how validation images are computed: as `predict` computes them; see `inference_precision`."""
    return Way("bf16" if speeds.device == "cuda" and speeds.precision == "bf16" and wanted != "fp32" else "fp32")


def choose_precision(speeds: Speeds, wanted: WantedPrecision) -> Precision:
    """Return the precision for the features of training images."""
    if wanted != "auto":
        return wanted
    if speeds.precision is not None:
        return speeds.precision
    return "bf16" if speeds.seconds.get("bf16", float("inf")) < BF16_SHARE * speeds.seconds["fp32"] else "fp32"


def choose_way(speeds: Speeds, precision: Precision, wanted: Compile, missing: Callable[[Way], int]) -> Way:
    """Return the way that computes the missing features in the least time, including compilation.

    Args:
        missing: the number of features that are not in the cache, for each way: each has a space of its own.
    """
    plain, compiled = Way(precision), Way(precision, compiled=True)
    if wanted != "auto":
        return compiled if wanted == "always" else plain
    compile_seconds = speeds.compile_seconds.get(str(compiled))
    if compile_seconds is None or compile_seconds < 0 or str(compiled) not in speeds.seconds:
        return plain
    left = missing(compiled)
    cost = compile_seconds + left * speeds.seconds[str(compiled)] if left else 0.0
    return compiled if cost < missing(plain) * speeds.seconds[str(plain)] else plain


def worth_trying_to_compile(speeds: Speeds, precision: Precision, wanted: Compile, missing: int) -> bool:
    """Return whether so many features are missing that it is worth finding out whether compiling pays."""
    untried = speeds.device != "cuda" and str(Way(precision, compiled=True)) not in speeds.compile_seconds
    return wanted == "auto" and untried and missing * speeds.seconds[precision] > WORTH_COMPILING


def measure(
    network: Network,
    device: torch.device,
    *,
    precisions: Sequence[Precision],
    known: Speeds | None = None,
) -> Speeds:
    """Time the network on images of noise, alternating between the precisions; on CUDA see `by_rule`.

    Args:
        precisions: fp32, and bf16 if it may be chosen.
        known: earlier measurements, which are kept, as is the decision that they led to.
    """
    if device.type == "cuda":
        return by_rule(device)
    speeds = known or Speeds(device.type, describe(device))
    small = 8 if device.type == "cpu" else 32
    timers = {
        precision: _Timer(network, device, precision, batch_size=small)
        for precision in precisions
        if precision not in speeds.seconds
    }
    for rounds in (3, 9):
        for _ in range(rounds):  # alternating, so that other load on the machine affects all alike
            for timer in timers.values():
                timer.run()
        speeds = replace(speeds, seconds=speeds.seconds | {name: timer.best for name, timer in timers.items()})
        if choose_precision(speeds, "auto") == "bf16" or "bf16" not in timers:
            break  # else bf16 is unexpectedly slow for hardware that multiplies it: measure more before deciding
    speeds = replace(speeds, precision=choose_precision(speeds, "auto"))
    return _with_batch_size(network, device, speeds) if speeds.lacks(precisions) else speeds


def _with_batch_size(network: Network, device: torch.device, speeds: Speeds) -> Speeds:
    chosen = choose_precision(speeds, "auto")
    tried = {size: _Timer(network, device, chosen, batch_size=size) for size in BATCH_SIZES[device.type]}
    for _ in range(2):
        for timer in tried.values():
            timer.run()
    batch_size = min(tried, key=lambda size: tried[size].best)
    return replace(speeds, batch_size=batch_size, seconds=speeds.seconds | {chosen: tried[batch_size].best})


def measure_compiled(network: Network, device: torch.device, speeds: Speeds, precision: Precision) -> Speeds:
    """Compile the network, time it, and return the speeds with the result; a failure is recorded too."""
    from cnn_tl.features.embedding import embedder

    way, size = str(Way(precision, compiled=True)), speeds.at_once(network.preprocessing)
    pixels = noise(network, size)
    started = time.perf_counter()
    try:
        with embedder(network, device, precision, compiled=True, batch_size=size) as frozen:
            frozen.outputs(pixels)
            compile_seconds = time.perf_counter() - started
            best = min(_timed(frozen, pixels) for _ in range(5))
    except Exception:  # noqa: BLE001 - no compiler, a model that cannot be traced, ...
        return replace(speeds, compile_seconds=speeds.compile_seconds | {way: -1.0})
    return replace(
        speeds,
        compile_seconds=speeds.compile_seconds | {way: round(compile_seconds, 2)},
        seconds=speeds.seconds | {way: best},
    )


class _Timer:
    """Repeats a forward pass of noise; `best` is the shortest time per image, in seconds."""

    def __init__(self, network: Network, device: torch.device, precision: Precision, *, batch_size: int) -> None:
        self._arguments = (network, device, precision)
        self._pixels = noise(network, batch_size)
        self._warm = False
        self.best = float("inf")

    def run(self) -> None:
        from cnn_tl.features.embedding import embedder

        with embedder(*self._arguments, batch_size=len(self._pixels)) as frozen:
            if not self._warm:
                _timed(frozen, self._pixels)
                self._warm = True
            ends = time.perf_counter() + MEASURED_SECONDS / 3
            while True:
                self.best = min(self.best, _timed(frozen, self._pixels))
                if time.perf_counter() > ends:
                    return


def noise(network: Network, count: int) -> Pixels:
    """Return `count` images of noise of the network's size, uint8 [N, H, W, 3]."""
    import numpy as np

    shape = (count, network.preprocessing.height, network.preprocessing.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _timed(frozen: Engine, pixels: Pixels) -> float:
    started = time.perf_counter()
    frozen.outputs(pixels)
    return (time.perf_counter() - started) / len(pixels)


def recall(folder: Path, device: str) -> Speeds | None:
    """Return the valid speeds of this machine for the network remembered in `folder`; None if there are none."""
    try:
        found = Speeds(**files.read_json(folder / file_name(device)))
        return found if _is_valid(found) else None
    except (CnnTlError, TypeError, AttributeError):
        return None


def _is_valid(found: Speeds) -> bool:
    """Check speeds from a file, which may have been edited, or be of another version."""
    times = (*found.seconds.values(), *(took for took in found.compile_seconds.values() if took != -1))
    if found.device == "cuda":  # earlier versions have measured there
        return isinstance(found.device_name, str) and found.precision in ("fp32", "bf16") and not times
    return (
        found.device in BATCH_SIZES
        and isinstance(found.device_name, str)
        and found.precision in ("fp32", "bf16")
        and {"fp32", found.precision} <= found.seconds.keys()
        and all(isinstance(took, float | int) and 0 < took < LONGEST for took in times)
        and (found.batch_size is None or found.batch_size in BATCH_SIZES[found.device])
    )


def remember(folder: Path, device: str, speeds: Speeds) -> None:
    """Save measured speeds.

    Args:
        device: as in the recipe, including "auto".

    Raises:
        ResourceError: the folder cannot be written.
    """
    files.write_json(folder / file_name(device), asdict(speeds))


def describe(device: torch.device) -> str:
    """Return a device in words."""
    import torch

    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({counted(torch.get_num_threads(), 'thread')})" if device.type == "cpu" else device.type


def hardware_of(device: torch.device) -> str:
    """Return the name of a device, as in `Speeds.hardware`."""
    return describe(device) if device.type == "cuda" else processor()


def file_name(what: str, kind: str = "speeds") -> str:
    """Return the name of a file of measurements: a digest of what affects the speed and is known without torch.

    Args:
        what: the device as in the recipe, including "auto", and other settings of the recipe that matter.
    """
    machine: list[Any] = [
        what, processor(), default_workers(), nvidia_devices(),
        *(os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS")),
        version("torch"),
    ]  # fmt: skip
    return f"{kind}-{hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]}.json"

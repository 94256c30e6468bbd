"""How fast this machine runs a network, measured in about a second, remembered, and what follows from it.

The number format, a GPU's batch size and whether to compile are chosen by what was measured, and that is kept beside
the features: the same recipe on the same machine makes the same choice again, and a second run measures nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cnn_tl.core import files
from cnn_tl.core.cpu import default_workers
from cnn_tl.core.device import Precision
from cnn_tl.core.errors import CnnTlError
from cnn_tl.core.formatting import counted

if TYPE_CHECKING:
    import torch

    from cnn_tl.features.embedding import Embedder, Pixels
    from cnn_tl.networks.backbone import Network

Compile = Literal["auto", "never", "always"]

BATCH_SIZE = 16
"""Of a CPU, always: rows of different sizes of batch would differ in their last bits, and no stopwatch may decide about
those. Of eight networks and formats on one thread five were fastest with it; 8 and 32 were up to a third slower."""

UNMEASURED = 32
"""The batch size of a GPU that was not measured."""

BATCH_SIZES = {"cpu": (16, 32), "cuda": (32, 64, 128, 256, 512), "mps": (16, 32, 64, 128)}

PAYS = 0.9
"""bf16 is taken if it needs less than this share of the time of fp32; a tie goes to the exact format."""

WORTH_COMPILING = 400.0
"""Seconds of uncompiled work from which half a minute is risked on finding out whether compiling pays."""

MEASURED_SECONDS = 0.1

LONGEST = 1e6
"""Seconds from which on a time in a file is taken for nonsense."""


@dataclass(frozen=True)
class Speeds:
    """What was measured.

    Attributes:
        device: "cpu", "cuda" or "mps". device_name: the same in words.
        seconds: for each way ("fp32", "bf16", "bf16, compiled") the seconds that an image takes.
        batch_size: the fastest; None if it was not measured, as on a CPU, where it is fixed.
        compile_seconds: for each compiled way what compiling took, -1 if it failed.
        precision: what `auto` came to, once and for all; None: it follows from `seconds`.
    """

    device: str
    device_name: str
    seconds: dict[str, float] = field(default_factory=dict)
    batch_size: int | None = None
    compile_seconds: dict[str, float] = field(default_factory=dict)
    precision: Precision | None = None

    @property
    def hardware(self) -> str:
        """What computes, in words that do not change with its settings."""
        return self.device_name if self.device == "cuda" else processor()

    @property
    def at_once(self) -> int:
        """Images that pass the network together."""
        return BATCH_SIZE if self.device == "cpu" else self.batch_size or UNMEASURED

    def is_of(self, device: torch.device) -> bool:
        """Say whether it was this device that was measured."""
        return (self.device, self.hardware) == (device.type, hardware_of(device))

    def lacks(self, formats: Sequence[Precision]) -> bool:
        """Say whether something is left to measure in these number formats."""
        return not self.seconds.keys() >= set(formats) or (self.batch_size is None and self.device != "cpu")


@dataclass(frozen=True)
class Way:
    """How the images pass the network: the number format, and compiled or not."""

    precision: Precision
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.precision}, compiled" if self.compiled else self.precision


def choose_precision(speeds: Speeds, wanted: Literal["auto", "fp32", "bf16"]) -> Precision:
    """Return the number format for the features of training images."""
    if wanted != "auto":
        return wanted
    if speeds.precision is not None:
        return speeds.precision
    return "bf16" if speeds.seconds.get("bf16", float("inf")) < PAYS * speeds.seconds["fp32"] else "fp32"


def choose_way(speeds: Speeds, precision: Precision, wanted: Compile, missing: Callable[[Way], int]) -> Way:
    """Return the way that needs the least time for what is missing, compiling included.

    Args:
        missing: how many features are not in the cache, for each way: both ways have a space of their own.
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
    """Say whether there is so much to do that it is worth finding out whether compiling pays."""
    untried = str(Way(precision, compiled=True)) not in speeds.compile_seconds
    return wanted == "auto" and untried and missing * speeds.seconds[precision] > WORTH_COMPILING


def measure(
    network: Network,
    device: torch.device,
    *,
    formats: Sequence[Precision],
    known: Speeds | None = None,
) -> Speeds:
    """Time the network on images of noise, in turn in each number format.

    Args:
        formats: fp32, and bf16 where it may be chosen.
        known: what was measured before; it stays, and what it decided stays decided.
    """
    speeds = known or Speeds(device.type, describe(device))
    small = 8 if device.type == "cpu" else 32
    timers = {
        precision: _Timer(network, device, precision, batch_size=small)
        for precision in formats
        if precision not in speeds.seconds
    }
    for rounds in (3, 9):
        for _ in range(rounds):  # in turn, so that whatever else the machine does hits all alike
            for timer in timers.values():
                timer.run()
        speeds = replace(speeds, seconds=speeds.seconds | {name: timer.best for name, timer in timers.items()})
        if choose_precision(speeds, "auto") == "bf16" or "bf16" not in timers:
            break  # else against what hardware that multiplies bf16 leads to expect: looked at again before it decides
    speeds = replace(speeds, precision=choose_precision(speeds, "auto"))
    return _with_batch_size(network, device, speeds) if speeds.lacks(formats) else speeds


def _with_batch_size(network: Network, device: torch.device, speeds: Speeds) -> Speeds:
    chosen = choose_precision(speeds, "auto")
    tried = {size: _Timer(network, device, chosen, batch_size=size) for size in BATCH_SIZES[device.type]}
    for _ in range(2):
        for timer in tried.values():
            timer.run()
    batch_size = min(tried, key=lambda size: tried[size].best)
    return replace(speeds, batch_size=batch_size, seconds=speeds.seconds | {chosen: tried[batch_size].best})


def measure_compiled(network: Network, device: torch.device, speeds: Speeds, precision: Precision) -> Speeds:
    """Compile the network, time it, and return the speeds with what came out; a failure is remembered as one."""
    from cnn_tl.features.embedding import embedder

    way, size = str(Way(precision, compiled=True)), speeds.at_once
    pixels = noise(network, size)
    started = time.perf_counter()
    try:
        with embedder(network, device, precision, compiled=True, batch_size=size) as frozen:
            frozen.finish(frozen.start(pixels))
            compile_seconds = time.perf_counter() - started
            best = min(_timed(frozen, pixels) for _ in range(5))
    except Exception:  # noqa: BLE001 - no compiler, a model that cannot be traced, ...: then it is not compiled
        return replace(speeds, compile_seconds=speeds.compile_seconds | {way: -1.0})
    return replace(
        speeds,
        compile_seconds=speeds.compile_seconds | {way: round(compile_seconds, 2)},
        seconds=speeds.seconds | {way: best},
    )


class _Timer:
    """Repeats a forward pass of noise; `best` is the least time an image took, in seconds."""

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
    """Return so many images of the size that the network takes, uint8 [N, H, W, 3]."""
    import numpy as np

    shape = (count, network.preprocessing.height, network.preprocessing.width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def _timed(frozen: Embedder, pixels: Pixels) -> float:
    started = time.perf_counter()
    frozen.finish(frozen.start(pixels))
    return (time.perf_counter() - started) / len(pixels)


def recall(folder: Path, device: str) -> Speeds | None:
    """Return what was measured on this machine for the network remembered in `folder`, if it was and makes sense."""
    try:
        found = Speeds(**files.read_json(folder / file_name(device)))
        return found if _makes_sense(found) else None
    except (CnnTlError, TypeError, AttributeError):
        return None


def _makes_sense(found: Speeds) -> bool:
    """Check what a file says: it is of this machine's owner, but may have been edited or be another version's."""
    times = (*found.seconds.values(), *(took for took in found.compile_seconds.values() if took != -1))
    return (
        found.device in BATCH_SIZES
        and isinstance(found.device_name, str)
        and found.precision in ("fp32", "bf16")
        and {"fp32", found.precision} <= found.seconds.keys()
        and all(isinstance(took, float | int) and 0 < took < LONGEST for took in times)
        and (found.batch_size is None or found.batch_size in BATCH_SIZES[found.device])
    )


def remember(folder: Path, device: str, speeds: Speeds) -> None:
    """Keep what was measured.

    Args:
        device: what the recipe asks for, "auto" included.

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
    """Return what computes, in the words of `Speeds.hardware`."""
    return describe(device) if device.type == "cuda" else processor()


def file_name(what: str, kind: str = "speeds") -> str:
    """Name a file for what was measured by everything that decides about speed and can be known without torch.

    Args:
        what: the device that a recipe asks for, "auto" included, and whatever else of the recipe counts.
    """
    machine: list[Any] = [
        what, processor(), default_workers(), sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*")),
        *(os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS")),
        version("torch"),
    ]  # fmt: skip
    return f"{kind}-{hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]}.json"


@cache
def processor() -> str:
    """Return the name of the processor."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

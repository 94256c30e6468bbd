"""The device that computes features, and a GPU's name remembered: a run that finds all features cached loads no torch.

On a CPU onnxruntime computes in float32. On a GPU torch does, in bf16 where the hardware multiplies it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnn_tl.core import files
from cnn_tl.core.cpu import default_workers, processor
from cnn_tl.core.device import Precision, WantedPrecision, inference_precision, nvidia_devices
from cnn_tl.core.errors import CnnTlError
from cnn_tl.core.formatting import counted
from cnn_tl.core.imports import installed_version
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.features.stream import Pixels

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Device:
    """A device.

    Attributes:
        kind: "cpu", "cuda" or "mps".
        name: the same in words.
        fastest: the precision in which it runs a network without gradients, unless another one is wanted.
    """

    kind: str
    name: str
    fastest: Precision = "fp32"

    @property
    def hardware(self) -> str:
        """The name of the hardware, which does not change with its settings."""
        return self.name if self.kind == "cuda" else processor()

    def precision(self, wanted: WantedPrecision) -> Precision:
        """Return the precision in which a network runs here without gradients; see `inference_precision`."""
        return "fp32" if wanted == "fp32" else self.fastest


def this_cpu() -> Device:
    """Return the CPU; loads no torch."""
    return Device("cpu", f"cpu ({counted(default_workers(), 'thread')})")


def device_of(device: torch.device) -> Device:
    """Return the description of one of torch's devices."""
    return Device(device.type, describe(device), inference_precision(device, "auto"))


def describe(device: torch.device) -> str:
    """Return a device in words."""
    import torch

    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({counted(torch.get_num_threads(), 'thread')})" if device.type == "cpu" else device.type


def hardware_of(device: torch.device) -> str:
    """Return the name of a device, as in `Device.hardware`."""
    return describe(device) if device.type == "cuda" else processor()


def noise(spec: Preprocessing, count: int) -> Pixels:
    """Return `count` images of noise of the network's size, uint8 [N, H, W, 3]."""
    return np.random.default_rng(0).integers(0, 256, (count, spec.height, spec.width, 3), dtype=np.uint8)


def recall(folder: Path, wanted: str) -> Device | None:
    """Return the GPU that an earlier run remembered in `folder`; None if there is none."""
    try:
        found = Device(**files.read_json(folder / file_name(wanted)))
    except (CnnTlError, TypeError, AttributeError):
        return None
    is_valid = found.kind in ("cuda", "mps") and isinstance(found.name, str) and found.fastest in ("fp32", "bf16")
    return found if is_valid else None


def remember(folder: Path, wanted: str, device: Device) -> None:
    """Keep a GPU's description for later runs.

    Args:
        wanted: the device as in the recipe, including "auto".

    Raises:
        ResourceError: the folder cannot be written.
    """
    files.write_json(folder / file_name(wanted), asdict(device))


def file_name(what: str, kind: str = "device") -> str:
    """Return the name of a file about this machine: a digest of what is known of it without torch.

    Args:
        what: the device as in the recipe, including "auto", and other settings of the recipe that matter.
    """
    machine: list[Any] = [
        what, processor(), default_workers(), nvidia_devices(),
        *(os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS")),
        installed_version("torch"),
    ]  # fmt: skip
    return f"{kind}-{hashlib.sha256(json.dumps(machine).encode()).hexdigest()[:16]}.json"

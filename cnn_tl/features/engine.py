"""Runs a network in evaluation mode on batches of pixels: embedding, validation, predict, evaluate and serve use this.

On CUDA nothing waits for anything else: while the device computes one batch, the next one is copied to it, and the
outputs of the previous one are copied back. The precision follows a rule, `core.device.inference_precision`, so the
accuracy that training reports is that of `predict` on the same device.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from cnn_tl.core.device import Precision, autocast, exact_fp32, fp32_switches_restored, is_out_of_memory
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.features.cuda_batch_size import cuda_batch_size
from cnn_tl.features.stream import Outputs, Pixels
from cnn_tl.features.transfer import HostCopy, transfer_of
from cnn_tl.networks.backbone import normalised

Item = TypeVar("Item")

SMALLEST_BATCH = 8
"""Images in a batch on CUDA, at least; a larger batch has a power of two, so that few sizes occur: cuDNN chooses
kernels for each size, which takes a second or two for resnet50, longer than to compute the images that are added."""

LARGE_BATCH = 64
"""Images from which on a batch on CUDA is padded to the usual size, `cuda_batch_size`, and the smaller ones after it as
well: they belong to many images, where the time of all counts and not that of one. What other engines have done does
not matter, or a resumed run would end in other bits."""


@dataclass(frozen=True)
class DeviceBatch(Generic[Item]):
    """Images whose pixels lie on the device, uint8 [N, H, W, 3]."""

    items: Sequence[Item]
    pixels: Tensor


@dataclass(frozen=True)
class Pending:
    """Outputs [N, D] that the device may still be computing, in one part or, if memory is short, in several."""

    parts: list[HostCopy]


class Engine:
    """A network on one device, in evaluation mode.

    `start` hands a batch to the device and, on CUDA, returns at once; `finish` waits for the result. So the device can
    work on the next batch while this one is used. Several threads may use one engine.

    Args:
        model: on the device already; float32, evaluation mode.
        alone: run each image by itself. Kernels are chosen by the size of a batch, and may divide it among threads; so
            on a CPU an image's outputs would depend on its companions, in the last bits.

    Attributes:
        is_asynchronous: whether `start` returns before the outputs are computed.
        at_once: images in one forward pass, at most; None: as many as are given. Halved when memory runs out.
        seconds: time spent in `start` and `finish`, that is, in the network.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: Preprocessing,
        device: torch.device,
        precision: Precision,
        *,
        alone: bool = False,
    ) -> None:
        self._model, self._spec, self._device, self._precision = model, spec, device, precision
        self._transfer, self._lock = transfer_of(device), threading.Lock()
        self.is_asynchronous = device.type == "cuda"
        self.at_once: int | None = 1 if alone else None
        self.seconds = 0.0
        self._large_sizes: set[int] = set()

    def start(self, pixels: Pixels | Tensor) -> Pending:
        """Start to compute the outputs [N, D] of uint8 pixels [N, H, W, 3]; an array may then be changed.

        Args:
            pixels: in host memory, or a tensor on the device.

        Raises:
            RuntimeError, MemoryError: not even one image fits into memory; see `core.device.is_out_of_memory`.
        """
        with self._lock, fp32_switches_restored():
            started = time.perf_counter()
            exact_fp32()
            parts: list[HostCopy] = []
            done = 0
            while done < len(pixels):
                chunk = pixels[done : done + (self.at_once or len(pixels))]
                part = self._outputs_if_they_fit(chunk)
                if part is None:
                    self._halve(len(chunk))
                else:
                    parts.append(part)
                    done += len(chunk)
            self.seconds += time.perf_counter() - started
        return Pending(parts)

    def finish(self, pending: Pending) -> Outputs:
        """Wait for these outputs, not for batches started later, and return them, float32 [N, D]."""
        started = time.perf_counter()
        arrays = [part.array() for part in pending.parts]
        whole = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        self.seconds += time.perf_counter() - started
        return whole

    def outputs(self, pixels: Pixels) -> Outputs:
        """Return the outputs, float32 [N, D], of uint8 pixels [N, H, W, 3]."""
        return self.finish(self.start(pixels))

    def warm_up(self, count: int) -> None:
        """Run once on `count` images of zeros, so that CUDA has chosen its kernels when images come; not elsewhere."""
        if self.is_asynchronous:
            self.outputs(np.zeros((count, self._spec.height, self._spec.width, 3), np.uint8))
            self.seconds = 0.0

    def _outputs_if_they_fit(self, pixels: Pixels | Tensor) -> HostCopy | None:
        """Start to compute outputs; return None if memory ran out and fewer images may fit."""
        try:
            return self._started(pixels)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(pixels) == 1:
                raise
        return None

    def _started(self, pixels: Pixels | Tensor) -> HostCopy:
        count = len(pixels)
        size = self._padded_size(count)
        if isinstance(pixels, Tensor):
            bytes_NHW3 = _padded_tensor(pixels, size)
        else:
            bytes_NHW3 = self._transfer.to_device(_padded(pixels, size))
        with torch.inference_mode(), autocast(self._device, self._precision):
            outputs_ND: Tensor = self._model(normalised(bytes_NHW3, self._spec))[:count].flatten(1).float()
        return self._transfer.to_host(outputs_ND)

    def _padded_size(self, count: int) -> int:
        if not self.is_asynchronous or self.at_once is not None:  # short of memory: not one image more
            return count
        if count > SMALLEST_BATCH and (larger := [size for size in self._large_sizes if size >= count]):
            return min(larger)
        size = max(SMALLEST_BATCH, 1 << (count - 1).bit_length())
        if size >= LARGE_BATCH:
            if size > count >= LARGE_BATCH:  # a power of two is as many as the caller takes at once
                size = max(size, cuda_batch_size(self._spec))
            self._large_sizes.add(size)
        return size

    def _halve(self, size: int) -> None:
        self.at_once = size // 2
        if self.is_asynchronous:
            torch.cuda.empty_cache()


def _padded(pixels: Pixels, size: int) -> Pixels:
    """Pad a batch to at least `size` images by repeating its first one."""
    lacking = size - len(pixels)
    return pixels if lacking <= 0 else np.concatenate([pixels, np.repeat(pixels[:1], lacking, axis=0)])


def _padded_tensor(pixels: Tensor, size: int) -> Tensor:
    lacking = size - len(pixels)
    return pixels if lacking <= 0 else torch.cat([pixels, pixels[:1].expand(lacking, -1, -1, -1)])

"""What computes the features of a run: onnxruntime on a CPU, torch on a GPU, or on a CPU where onnxruntime cannot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.device import Precision, may_be_gpu
from cnn_tl.core.errors import CnnTlError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.features import devices
from cnn_tl.features.cache_keys import onnx_facts, space_facts
from cnn_tl.features.cuda_batch_size import cuda_batch_size
from cnn_tl.features.devices import Device, this_cpu
from cnn_tl.networks.info import NetworkInfo
from cnn_tl.recipe.resolved import FreezeRecipe
from cnn_tl.training.backbone_graph import find_graph
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.estimate import onnx_seconds_per_image, seconds_per_image
from cnn_tl.training.lazy_network import LazyNetwork

GPU_SECONDS = 1 / 2000
"""Seconds for one image on a GPU, for the estimate of a plan: an ordinary network on an ordinary card."""

MPS_BATCH = 32


@dataclass(frozen=True)
class Backend:
    """What computes features.

    Attributes:
        precision: of the network; onnxruntime computes in float32.
        graph: of the backbone; None: torch computes.
        why_torch: why torch computes on a CPU; None elsewhere.
    """

    device: Device
    precision: Precision
    graph: bytes | None = None
    why_torch: str | None = None

    @property
    def engine(self) -> Literal["onnxruntime", "torch"]:
        """The package that computes."""
        return "torch" if self.graph is None else "onnxruntime"

    def __str__(self) -> str:
        """Return for example "fp32, onnxruntime"."""
        on_cpu = self.device.kind == "cpu"
        reason = f" ({self.why_torch})" if self.why_torch else ""
        return f"{self.precision}, {self.engine}{reason}" if on_cpu else self.precision

    def facts(self, info: NetworkInfo) -> dict[str, Any]:
        """Return what determines the features, for their key in the cache."""
        if self.graph is not None:
            return onnx_facts(info, self.graph)
        hardware = self.device.hardware
        return space_facts(info, precision=self.precision, device=self.device.kind, hardware=hardware)

    def at_once(self, spec: Preprocessing) -> int:
        """Return how many images the network is given at once; on a CPU it computes each of them alone."""
        if self.device.kind == "cuda":
            return cuda_batch_size(spec)
        return MPS_BATCH if self.device.kind == "mps" else max(16, 4 * default_workers())

    def seconds(self, network: LazyNetwork) -> float:
        """Return an estimate of the seconds for one image."""
        if self.device.kind != "cpu":
            return GPU_SECONDS
        if self.graph is None:
            return seconds_per_image(network, "fp32", images=1)
        return onnx_seconds_per_image(network, self.graph)


def choose_backend(
    run: Run[FreezeRecipe], dataset: Dataset[FreezeRecipe], network: LazyNetwork, *, verify_device: bool = False
) -> Backend:
    """Return what computes the features of a run.

    Args:
        verify_device: check that a remembered GPU is there, which needs torch. Without it `embed` checks before it
            computes anything.
    """
    device = _device(run, network, verify_device=verify_device)
    if device.kind != "cpu":
        return Backend(device, device.precision(run.recipe.run.precision))
    find_graph(run, dataset, network)
    return Backend(device, "fp32", network.remembered.graph, network.remembered.why_torch)


def _device(run: Run[FreezeRecipe], network: LazyNetwork, *, verify_device: bool) -> Device:
    wanted = run.recipe.run.device
    if not may_be_gpu(wanted):
        return this_cpu()
    known = None if verify_device else devices.recall(network.cache_folder, wanted)
    if known is not None:
        return known
    found = devices.device_of(network.device)
    if found.kind != "cpu" and run.writes and run.recipe.features.cache and network.cache_folder.is_dir():
        try:
            devices.remember(network.cache_folder, wanted, found)
        except CnnTlError as error:
            run.observer.note(f"the device is not remembered: {error}")
    return this_cpu() if found.kind == "cpu" else found

"""The network of a run: its description is known from the start, it is built when it first has to run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from cnn_tl.cache.inventory import touch
from cnn_tl.cache.location import default_root
from cnn_tl.cache.store import FeatureCache
from cnn_tl.core.device import DeviceName, Precision, inference_precision, is_out_of_memory, may_be_gpu, pick_device
from cnn_tl.core.errors import ArtefactError, CnnTlError, UsageError
from cnn_tl.core.imports import require_torch
from cnn_tl.features.cuda_batch_size import cuda_batch_size
from cnn_tl.features.devices import Device, device_of, this_cpu
from cnn_tl.features.loading_engine import LoadingEngine
from cnn_tl.features.onnx_engine import OnnxEngine
from cnn_tl.networks import info
from cnn_tl.networks.graph import shipped
from cnn_tl.networks.info import NetworkInfo, Remembered
from cnn_tl.networks.pretrained import hub, weights
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.recipe.resolved import FreezeRecipe
from cnn_tl.training.context import Run, budget_bytes
from cnn_tl.training.torch_use import why_built

if TYPE_CHECKING:
    import torch
    from torch import nn

    from cnn_tl.networks.backbone import Network


@dataclass(frozen=True)
class PreparedEngine:
    """An engine that computes features in this precision."""

    precision: Precision
    engine: LoadingEngine


class LazyNetwork:
    """A network that is built on first use: that needs torch and takes seconds, and cached features do without.

    Args:
        build: builds the network.
        built: the network, if it had to be built to describe it.
        device: where to run it.

    Attributes:
        remembered: its description, and the tensors of its backbone.
        cache_folder: the cached description, tensors and measured speeds of the network; may not exist.
        prepared: an engine that computes features, if one was got ready while the network was described.
        has_agreed_graph: whether all processes of the run have the graph of `remembered`, or the same reason for none.
    """

    def __init__(
        self,
        remembered: Remembered,
        cache_folder: Path,
        build: Callable[[], Network],
        *,
        built: Network | None = None,
        device: DeviceName = "auto",
        prepared: PreparedEngine | None = None,
    ) -> None:
        self.remembered, self.cache_folder = remembered, cache_folder
        self._build, self._built, self._wanted_device = build, built, device
        self.prepared = prepared
        self.has_agreed_graph = False
        self._onnx: OnnxEngine | None = None

    @property
    def info(self) -> NetworkInfo:
        """The description of the network."""
        return self.remembered.info

    @property
    def is_built(self) -> bool:
        """Whether the network exists in this process."""
        return self._built is not None

    def build(self) -> Network:
        """Return the network, the same one each time; the first call builds it."""
        if self._built is None:
            self._built = self._build()
        return self._built

    def rebuild(self) -> None:
        """Build the network again, with its weights from before training.

        Raises:
            ArtefactError: its weights have changed in the meantime.
        """
        self._built = self._build()

    def is_on(self, device: Device) -> bool:
        """Return whether this is the device of the run; loads torch if it may be a GPU."""
        here = device_of(self.device) if may_be_gpu(self._wanted_device) else this_cpu()
        return (device.kind, device.hardware) == (here.kind, here.hardware)

    def onnx_engine(self, graph: bytes) -> OnnxEngine:
        """Return the backbone in onnxruntime, the same engine until `forget_engines`."""
        if self._onnx is None:
            tensors = self.backbone_tensors(lambda text: None)
            self._onnx = OnnxEngine(graph, tensors, self.info.preprocessing)
        return self._onnx

    def forget_engines(self) -> None:
        """Free the memory of the engines."""
        self._onnx = self.prepared = None

    @property
    def model(self) -> nn.Module:
        """The network's module; see `build`."""
        return self.build().model

    @cached_property
    def device(self) -> torch.device:
        """Where the network runs; imports torch."""
        return pick_device(self._wanted_device)

    def backbone_tensors(self, note: Callable[[str], None]) -> Mapping[str, NDArray[Any]]:
        """Return the backbone's tensors: those of the built network, otherwise the cached ones.

        If the cached ones were lost meanwhile, report that to `note` and build the network.
        """
        if not self.is_built:
            try:
                return self.remembered.tensors()
            except ArtefactError as error:
                note(f"{error}; the network is built instead")
        from cnn_tl.networks.backbone import backbone_tensors

        return backbone_tensors(self.model)


def recall_network(run: Run) -> Remembered | None:
    """Return the network's description and tensors from the cache; None: it must be built.

    If it may have to be downloaded, open a connection to the hub in the background, while the caller scans the data.
    """
    recipe, cache_folder = run.recipe, _cache_folder_of(run)
    known = None
    if run.fits_head and not may_be_gpu(recipe.run.device):
        known = shipped.recall(recipe.model.name, _weights_file(recipe), recipe.model.image_size)
    if known is not None:
        return known
    # a named device other than cpu must be checked first, which needs torch
    if run.fits_head and recipe.features.cache and recipe.run.device in ("auto", "cpu"):
        known = info.recall(cache_folder)
    if known is not None:
        known = _with_graph(known, cache_folder)
        if run.writes:
            touch(cache_folder)  # mark it as just used, so that it is evicted last
    published = recipe.mode != "scratch" and recipe.model.weights is None
    if known is None and published and not weights.has_package(recipe.model.name):
        hub.start_probe(recipe.model.name)
    return known


def find_network(run: Run, known: Remembered | None, num_classes: int) -> LazyNetwork:
    """Return the run's network; build and describe it now unless it is `known`.

    Raises:
        UsageError: there is no such model, or no head can be fitted on its features.
        ArtefactError: weights that do not fit.
        ResourceError: a package, the network connection or the device is missing.
    """
    recipe, cache_folder, built, prepared = run.recipe, _cache_folder_of(run), None, None
    if known is None:
        built = _build(recipe, num_classes)
        prepared = _prepare_engine(run, built)
        known = _with_graph(_describe(run, built, cache_folder), cache_folder)
    expected = known

    def build() -> Network:
        network = _build(recipe, num_classes)
        _require_same(network, expected)  # mode auto builds it a second time
        return network

    described = replace(known, info=known.info.with_limits(recipe.data.max_pixels, recipe.data.min_side))
    return LazyNetwork(described, cache_folder, build, built=built, device=recipe.run.device, prepared=prepared)


def _cache_folder_of(run: Run) -> Path:
    model = run.recipe.model
    return info.folder_of(default_root(), model.name, _weights_file(run.recipe), model.image_size)


def _weights_file(recipe: ResolvedRecipe) -> Path | None:
    return Path(recipe.model.weights) if recipe.model.weights else None


def _build(recipe: ResolvedRecipe, num_classes: int) -> Network:
    started = time.monotonic()
    require_torch(why_built(recipe))
    from cnn_tl.networks import backbone

    loading_seconds = time.monotonic() - started
    pick_device(recipe.run.device)  # fails before the network is built, which takes seconds
    source = weights.locate(recipe.model.name, _weights_file(recipe), pretrained=recipe.mode != "scratch")
    built = backbone.build(
        recipe.model.name, source, num_classes=num_classes, image_size=recipe.model.image_size, seed=recipe.seed
    )
    built.loading_seconds = loading_seconds
    built.preprocessing = replace(built.preprocessing, max_pixels=recipe.data.max_pixels, min_side=recipe.data.min_side)
    return built


def _prepare_engine(run: Run, network: Network) -> PreparedEngine | None:
    """Begin to get an engine ready for the features of a first run on CUDA, where the first batch takes longest."""
    recipe, device = run.recipe, pick_device(run.recipe.run.device)
    wanted = run.fits_head and run.writes and not run.is_resumed
    if not (wanted and device.type == "cuda" and run.world.is_alone):
        return None
    from cnn_tl.features.embedding import prepared_embedder

    precision = inference_precision(device, recipe.run.precision)
    own = recipe.train.batch_size if isinstance(recipe, FreezeRecipe) else None
    size = own or cuda_batch_size(network.preprocessing)
    return PreparedEngine(precision, prepared_embedder(network, device, precision, size))


def _describe(run: Run, network: Network, cache_folder: Path) -> Remembered:
    """Describe a network that has been built, and cache the description for later runs."""
    from cnn_tl.networks import backbone

    if not run.fits_head:
        try:
            return backbone.describe(network, backbone.require_linear_classifier(network))
        except UsageError:  # it has no linear classifier, so its bundle has no graph
            return backbone.describe(network)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return backbone.describe(network)  # the loop says that memory is short
    described = backbone.describe(network, backbone.require_linear_classifier(network))
    wanted = run.writes and run.world.local_rank == 0 and run.recipe.features.cache and described.source is not None
    if wanted and (reason := _remember(run, described, cache_folder)):
        run.observer.note(f"the network's description is not cached: {reason}")
    return described


def _with_graph(known: Remembered, cache_folder: Path) -> Remembered:
    """Add the graph of the backbone, if it ships or an earlier run has made it."""
    about = known.info
    graph, why_torch = shipped.graph_for(about.architecture, about.arguments, about.preprocessing), None
    if graph is None:
        graph, why_torch = info.recall_graph(cache_folder)
    return replace(known, graph=graph, why_torch=why_torch)


def _remember(run: Run, described: Remembered, cache_folder: Path) -> str | None:
    """Cache a network's description and tensors within the budget; return why not, if that is impossible."""
    nbytes = sum(array.nbytes for array in described.tensors().values())
    cache = FeatureCache(default_root(), budget_bytes=budget_bytes(run.recipe))
    if reason := cache.make_room(nbytes):
        return reason
    try:
        info.remember(cache_folder, described)
    except (CnnTlError, OSError) as error:
        return str(error)
    return None


def _require_same(built: Network, known: Remembered) -> None:
    """Refuse a network other than the known one: its features would be cached under the wrong key."""
    from cnn_tl.networks.backbone import backbone_tensors

    if info.tensors_digest(backbone_tensors(built.model)) != known.info.backbone_sha256:
        raise ArtefactError(f"the weights of {built.name} have changed during the run; start it again")

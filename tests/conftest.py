"""Shared fixtures: generated images, weights of a tiny network, the command line, real data."""

from __future__ import annotations

import importlib
import os
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpus
import numpy as np
import pytest
from PIL import Image

from cnn_tl.core import telemetry

telemetry.forbid_telemetry()  # also of what a test module imports itself
os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir(), "cnn-tl-tests-matplotlib")))  # made once
os.environ.setdefault("SE_AVOID_STATS", "true")  # selenium-manager reports each use
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: our children would inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does: before torch is loaded
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # several tests run at once, on tiny networks

TINY = "test_resnet"
"""A timm model of 0.5 M parameters that takes 160 px images; its weights in the tests are random."""
TINY_SIDE = 64
"""The image size of most runs."""


LONGEST = (
    "test_gpu.py", "training/test_distributed.py", "guides/test_documents.py", "training/loop/test_loop.py",
    "test_kill.py",
)  # fmt: skip
"""Files that take the most time: one that came last would leave the other processes of pytest without work."""


def pytest_configure(config: pytest.Config) -> None:
    if gpus.are_wanted(config):
        gpus.make_deterministic_runs_possible()
        if not hasattr(config, "workerinput"):
            config.pluginmanager.register(gpus.FailuresAtOnce(config))
    else:
        gpus.hide()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start the longest files first, skip what needs a GPU, and make warnings errors while a test runs.

    A test's own word about a warning is stronger. Not by `filterwarnings` in pyproject.toml: that also holds while
    plug-ins load, and one that warns ends the run.
    """
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONGEST))
    for item in items:
        if item.get_closest_marker("gpu") and (reason := gpus.why_not_run(config, item)):
            item.add_marker(pytest.mark.skip(reason=reason))
        for rule in reversed(_warning_filters(config)):  # a rule that comes later is stronger
            item.add_marker(pytest.mark.filterwarnings(rule), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Make warnings errors while a file of tests is imported, and with it our own code."""
    with warnings.catch_warnings():
        for rule in _warning_filters(collector.config):
            action, _, _, module, *_ = f"{rule}::::".split(":")
            warnings.filterwarnings(action, module=module)
        return (yield)


def _warning_filters(config: pytest.Config) -> list[str]:
    """Return what is an error, the weakest rule first: all but what pytest's plug-ins warn of in their own code."""
    plugins = {getattr(plugin, "__name__", "") for plugin, _ in config.pluginmanager.list_plugin_distinfo()}
    packages = sorted({name.partition(".")[0] for name in plugins if name})
    return ["error", *(rf"default:::{package}(\.|$)" for package in packages)]


@dataclass(frozen=True)
class Outcome:
    """The result of a command line: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command line in this process, through the function that turns errors into exit codes."""
    from cnn_tl.cli import app

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = app.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep fixtures that outlive a test away from the user's own feature cache."""
    os.environ["CNN_TL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test its own feature cache, so that none finds what another left there."""
    folder = tmp_path / "feature cache"
    monkeypatch.setenv("CNN_TL_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def graphs_traced_once() -> Iterator[None]:
    """Trace each architecture once in this process, a second or two: the graph does not depend on the weights.

    Nor is the network timed in torch: several tests run at once, on tiny networks.
    """
    from cnn_tl.training import backbone_graph

    real, known = backbone_graph.trace, {}

    def trace(network: Any) -> bytes:
        from cnn_tl.networks.backbone import backbone_tensors

        classifier, spec = network.model.get_classifier(), network.preprocessing  # how many classes does not matter
        heads = classifier if isinstance(classifier, tuple | list) else [classifier]
        layers = tuple(
            (name, type(one), "" if any(one is head for head in heads) else one.extra_repr())
            for name, one in network.model.named_modules()
        )
        tensors = tuple((name, array.shape) for name, array in backbone_tensors(network.model).items())
        key = (layers, tensors, spec.height, spec.width)
        if key not in known:
            known[key] = real(network)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone_graph, "trace", trace)
        patch.setattr(backbone_graph, "CLEARLY", 0.0)
        yield


def as_in_the_product(patch: pytest.MonkeyPatch, target: str) -> Iterator[None]:
    """Undo a patch of the whole session for one test."""
    module, _, name = target.rpartition(".")
    replaced = getattr(importlib.import_module(module), name)
    patch.undo()
    yield
    patch.setattr(target, replaced)


@pytest.fixture(scope="session", autouse=True)
def no_fsync() -> Iterator[pytest.MonkeyPatch]:
    """Write files without fsync: a tiny run waits for the disk 70 times. `fsync` undoes this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnn_tl.core.files._fsync", lambda _: None)
        yield patch


@pytest.fixture
def fsync(no_fsync: pytest.MonkeyPatch) -> Iterator[None]:
    """Write files as the product does."""
    yield from as_in_the_product(no_fsync, "cnn_tl.core.files._fsync")


@pytest.fixture(scope="session", autouse=True)
def no_curves() -> Iterator[pytest.MonkeyPatch]:
    """Write one pixel as curves.png: drawing it takes half of a tiny run. `curves` undoes this."""
    from cnn_tl.core import files

    def write(path: Path, *_: object) -> None:
        with files.atomic_path(path) as temporary:
            Image.new("L", (1, 1)).save(temporary, format="png")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnn_tl.plots.curves.plot_curves", write)
        yield patch


@pytest.fixture
def curves(no_curves: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw learning curves as the product does."""
    yield from as_in_the_product(no_curves, "cnn_tl.plots.curves.plot_curves")


@pytest.fixture(scope="session", autouse=True)
def short_timings() -> Iterator[None]:
    """Time by single passes what a plan measures: to be sure of it takes as long as all else in a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnn_tl.training.step.precision.ROUNDS", 1)
        patch.setattr("cnn_tl.training.estimate.MEASURED_SECONDS", 0.0)
        yield


@pytest.fixture
def make_images() -> Callable[..., Path]:
    """Write class folders of small noisy images whose mean colour tells the class."""

    def make(root: Path, counts: Mapping[str, int], side: int = 24, seed: int = 0) -> Path:
        random = np.random.default_rng(seed)
        for index, (name, count) in enumerate(counts.items()):
            folder = root / name
            folder.mkdir(parents=True, exist_ok=True)
            colour = np.array([60 + 130 * (index & 1), 60 + 130 * (index >> 1 & 1), 60 + 130 * (index >> 2 & 1)])
            for number in range(count):
                pixels = np.clip(colour + random.normal(0, 25, (side, side, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
        return root

    return make


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write random weights of the tiny network, with its 1,000 classes, as safetensors."""
    import timm
    import torch
    from safetensors.torch import save_file

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(TINY, pretrained=False)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny_graph(graphs_traced_once: None, tiny_weights: Path) -> bytes:
    """Trace the backbone of the tiny network at `TINY_SIDE`."""
    from cnn_tl.networks import backbone
    from cnn_tl.networks.pretrained.weights import Source
    from cnn_tl.training import backbone_graph

    source = Source("file", tiny_weights, "")
    return backbone_graph.trace(backbone.build(TINY, source, num_classes=2, image_size=TINY_SIDE, seed=0))


@pytest.fixture(scope="session")
def keep_tiny_graph(tiny_graph: bytes, tiny_weights: Path) -> Callable[[Path], None]:
    """Return a function that keeps that graph in a cache: each process that has none takes seconds to make it."""
    from cnn_tl.networks import info

    return lambda cache: info.remember_graph(info.folder_of(cache, TINY, tiny_weights, TINY_SIDE), tiny_graph, None)


@pytest.fixture
def graph_is_known(keep_tiny_graph: Callable[[Path], None], own_cache: Path) -> None:
    """Let the processes that a test starts find the graph of the tiny network."""
    keep_tiny_graph(own_cache)


@pytest.fixture
def openvino() -> Any:
    """Return the package openvino, imported without its telemetry, or skip."""
    try:
        return telemetry.openvino()
    except ImportError:
        pytest.skip("the extra cnn-tl[openvino] is not installed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real images and weights for acceptance, or skip."""
    folder = Path(os.environ.get("CNN_TL_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip("the folder of real images is absent (set CNN_TL_SHARED)")
    return folder

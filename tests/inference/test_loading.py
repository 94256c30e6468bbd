"""On a CPU a trained model runs without torch, as torch would run it; what is damaged is refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_network
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.core import files
from cnn_tl.core.device import fp32_switches_restored
from cnn_tl.core.errors import ArtefactError, ResourceError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.features.headed_engine import HeadedEngine
from cnn_tl.inference import loading
from cnn_tl.networks import backbone, bundle
from cnn_tl.networks.graph import trace

CLASSES = ("ash", "birch", "cedar")
SPEC = Preprocessing(48, 48, "bilinear", 1.0, "center", (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
OLD_RUNS = Path(__file__).parents[1] / "fixtures" / "runs_0_1"
WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision", "timm"):
    sys.modules[name] = None  # importing it fails
from cnn_tl.cli import app
sys.exit(app.run(sys.argv[1:]))
"""


def normal(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


HEADS: dict[str, tuple[dict[str, Any] | None, dict[str, NDArray[np.float32]]]] = {
    "linear": (None, {"weight": normal(3, 12), "bias": normal(3)}),
    "mlp": (
        {"kind": "mlp", "hidden": 5},
        {"hidden.weight": normal(5, 12), "hidden.bias": normal(5), "output.weight": normal(3, 5)}
        | {"output.bias": normal(3)},
    ),
    "knn": (
        {"kind": "knn", "neighbours": 4},
        {"bank": np.abs(normal(30, 12)) / 4, "votes": np.eye(3, dtype=np.float32)[np.arange(30) % 3]},
    ),
}


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, bytes]:
    """A network of random weights, also in BatchNorm, and its graph."""
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = timm.create_model(tiny_network.NAME, num_classes=3).eval()
        for name, buffer in model.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + 0.5 * ("var" in name))
    return model, trace.graph_of(model, SPEC)


@pytest.fixture(scope="module")
def bundles(tiny: tuple[Any, bytes], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle of the network under each kind of head."""
    model, graph = tiny
    found = {}
    for kind, (spec, tensors) in HEADS.items():
        folder = tmp_path_factory.mktemp("run") / "model"
        whole = backbone.backbone_tensors(model) | {f"fc.{name}": array for name, array in tensors.items()}
        config = {"architecture": tiny_network.NAME, "pretrained_cfg": {"classifier": "another"}}
        bundle.save(
            folder, whole, config, classes=CLASSES, preprocessing=SPEC, facts={}, head=spec, graph=graph,
            classifier="fc",
        )  # fmt: skip
        found[kind] = folder
    return found


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """Nine images of different colours, with noise."""
    chance = np.random.default_rng(0)
    colours, noise = chance.integers(0, 206, (9, 1, 1, 3)), chance.integers(0, 50, (9, 48, 48, 3))
    return (colours + noise).astype(np.uint8)


@pytest.fixture
def images(pixels: NDArray[np.uint8], tmp_path: Path) -> list[Path]:
    for number, one in enumerate(pixels):
        Image.fromarray(one).save(tmp_path / f"{number}.png")
    return [tmp_path / f"{number}.png" for number in range(len(pixels))]


@pytest.mark.parametrize("kind", HEADS)
def test_the_logits_are_those_of_torch(kind: str, bundles: dict[str, Path], pixels: NDArray[np.uint8]) -> None:
    import torch

    here = loading.load(bundles[kind], "cpu")
    assert isinstance(here.engine, HeadedEngine)
    with fp32_switches_restored(), torch.inference_mode():
        model = bundle.load(bundles[kind]).model
        theirs = model(backbone.to_input(pixels, SPEC, torch.device("cpu"))).numpy()
    np.testing.assert_allclose(here.logits(pixels), theirs, rtol=1e-4, atol=1e-5)
    assert np.ptp(theirs, axis=0).max() > 0.01, "else all images are alike"


@pytest.mark.parametrize("kind", HEADS)
def test_an_image_alone_gets_the_same_bits(kind: str, bundles: dict[str, Path], pixels: NDArray[np.uint8]) -> None:
    here = loading.load(bundles[kind], "cpu")
    together = here.logits(pixels)
    assert np.array_equal(together, np.concatenate([here.logits(one[None]) for one in pixels]))
    assert np.array_equal(together[::-1], here.logits(pixels[::-1]))


@pytest.mark.parametrize("run", ["freeze", "freeze-hidden", "finetune", "scratch-lenet5"])
def test_an_older_bundle_gets_the_answers_of_torch_with_and_without_a_graph(run: str, tmp_path: Path) -> None:
    spec = bundle.describe(OLD_RUNS / run).preprocessing
    pixels = np.random.default_rng(0).integers(0, 256, (5, spec.height, spec.width, 3), np.uint8)
    by_torch = loading.load(OLD_RUNS / run, "cpu")
    assert not isinstance(by_torch.engine, HeadedEngine)
    old = bundle.read(OLD_RUNS / run)
    made = bundle.load(OLD_RUNS / run)
    linear = made.model
    if old.head is not None:
        linear.reset_classifier(3)  # type: ignore[operator]
    graph = trace.graph_of(linear, spec)
    config = bundle.read_config(old.path)
    bundle.save(
        tmp_path / "model", old.tensors, config, classes=old.classes, preprocessing=spec, facts={}, head=old.head,
        graph=graph, classifier=old.classifier,
    )  # fmt: skip
    by_onnxruntime = loading.load(tmp_path / "model", "cpu")
    assert isinstance(by_onnxruntime.engine, HeadedEngine)
    np.testing.assert_allclose(by_onnxruntime.logits(pixels), by_torch.logits(pixels), rtol=1e-4, atol=1e-5)


def test_predict_and_evaluate_and_explain_need_no_torch(
    bundles: dict[str, Path], images: list[Path], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for name in CLASSES:
        (data / name).mkdir(parents=True)
        for image in images[:2]:
            (data / name / image.name).write_bytes(image.read_bytes())
    for arguments in (
        ["predict", bundles["knn"], *images, "--json"],
        ["predict", bundles["mlp"], images[0], "--workers", "0"],
        ["evaluate", bundles["linear"], data, "--json"],
        ["explain", bundles["linear"], images[0], "--method", "occlusion", "--output", tmp_path / "why"],
    ):
        command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, (arguments, done.stderr)


def test_without_torch_a_bundle_without_a_graph_says_what_to_install(images: list[Path], tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, "predict", str(OLD_RUNS / "freeze"), str(images[0])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 5
    [line] = done.stderr.strip().splitlines()
    assert "torch" in line
    assert "pip install" in line


def test_where_a_gpu_was_possible_and_there_is_none_the_answers_are_the_same(
    bundles: dict[str, Path], pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = loading.load(bundles["linear"], "cpu").logits(pixels)
    monkeypatch.setattr(loading, "may_be_gpu", lambda device: True)
    monkeypatch.setattr(loading, "will_be_cuda", lambda device: None)
    model = loading.load(bundles["linear"], "cpu")
    assert isinstance(model.engine, HeadedEngine)
    assert np.array_equal(model.logits(pixels), expected)


def resealed(folder: Path, tmp_path: Path, change: Callable[[Path], None]) -> Path:
    """Return a changed copy whose checksums hold."""
    copied = tmp_path / "model"
    copied.mkdir()
    for file in folder.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    change(copied)
    (copied / files.CHECKSUMS).unlink()
    files.write_checksums(copied)
    return copied


def rewritten(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        change(config)
        (folder / "config.json").write_text(json.dumps(config), "utf-8")

    return rewrite


def replaced_tensors(**arrays: NDArray[np.float32]) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        tensors = files.read_arrays(folder / "model.safetensors")
        files.write_arrays(folder / "model.safetensors", tensors | arrays)

    return replace


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda folder: (folder / "graph.onnx").write_bytes(b""), "graph of the backbone"),
        (lambda folder: (folder / "graph.onnx").write_bytes(b"<html>" * 99), "graph of the backbone"),
        (
            lambda folder: (folder / "graph.onnx").write_bytes((folder / "graph.onnx").read_bytes()[:-700]),
            "graph of the backbone",
        ),
        (rewritten(lambda config: config["cnn_tl"]["preprocessing"].update(height=32)), "32 x 48 px"),
        (rewritten(lambda config: config["cnn_tl"].update(head={"kind": "tree"})), "no classifier of the kind 'tree'"),
        (rewritten(lambda config: config["cnn_tl"].update(head={"kind": "knn"})), "do not fit"),
        (rewritten(lambda config: config["cnn_tl"].update(head="knn")), "do not fit"),
        (rewritten(lambda config: config.update(label_names=["a", "b"])), "3 logits for 2 classes"),
        (rewritten(lambda config: config.update(architecture="hf-hub:someone/else")), "names no timm model"),
        (rewritten(lambda config: config.update(model_args="all")), "model_args is not a mapping"),
        (replaced_tensors(**{"fc.weight": normal(3, 11)}), "do not fit"),
        (replaced_tensors(**{"fc.bias": normal(2)}), "do not fit"),
        (replaced_tensors(**{"stem.0.weight": normal(6, 3, 5, 5)}), "graph of the backbone"),
        (replaced_tensors(**{"fc.bias": np.array([0, np.nan, 0], np.float32)}), "NaN or infinity in fc.bias"),
    ],
)  # fmt: skip
def test_a_hostile_bundle_is_refused_in_one_line(
    change: Callable[[Path], None], line: str, bundles: dict[str, Path], tmp_path: Path
) -> None:
    folder = resealed(bundles["linear"], tmp_path, change)
    with pytest.raises(ArtefactError) as caught:
        loading.load(folder, "cpu")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_graph_of_another_network_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    import timm

    other = trace.graph_of(timm.create_model("lenet5", num_classes=3).eval(), SPEC)
    folder = resealed(bundles["linear"], tmp_path, lambda folder: (folder / "graph.onnx").write_bytes(other) and None)
    with pytest.raises(ArtefactError, match="graph of the backbone"):
        loading.load(folder, "cpu")


def test_a_graph_that_the_checksums_do_not_list_is_refused(bundles: dict[str, Path], tmp_path: Path) -> None:
    folder = resealed(bundles["linear"], tmp_path, lambda folder: (folder / "graph.onnx").unlink())
    (folder / "graph.onnx").write_bytes(b"anything")
    with pytest.raises(ArtefactError, match=r"does not list graph\.onnx"):
        loading.load(folder, "cpu")


def test_a_damaged_graph_is_found_by_its_checksum(bundles: dict[str, Path], tmp_path: Path) -> None:
    folder = resealed(bundles["linear"], tmp_path, lambda folder: None)
    (folder / "graph.onnx").write_bytes((folder / "graph.onnx").read_bytes() + b"\0")
    with pytest.raises(ArtefactError, match=r"graph\.onnx is missing or differs from its checksum"):
        loading.load(folder, "cpu")


def test_another_device_than_the_cpu_takes_torch(bundles: dict[str, Path]) -> None:
    with pytest.raises(ResourceError, match="device mps is not available"):
        loading.load(bundles["linear"], "mps")

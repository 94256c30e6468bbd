"""Every export format, at every batch size, gives the same answers as the model on real images.

The model is torch's, and where the bundle has a graph, what predict runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from cnn_tl.core import files
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.digits import write_digits
from cnn_tl.data.folders.scan import scan
from cnn_tl.exporting.export import EXPORTERS, export
from cnn_tl.networks import bundle
from cnn_tl.networks.graph import trace

FAMILIES = ["tf_efficientnet_lite0", "mobilenetv2_100", "resnet18", "vgg11", "convnext_atto", "vit_tiny_patch16_224"]
FAMILIES += ["mobilenetv3_small_050", "densenet121"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run folder without a model: 300 photographs of many sizes to compare on, or scikit-learn's digits."""
    folder = tmp_path_factory.mktemp("parity")
    photographs = Path(os.environ.get("CNN_TL_SHARED", Path(__file__).parents[3] / "shared")) / "data"
    if photographs.is_dir():
        write_digits(folder / "digits")
        kept = sorted((photographs / "pizza_steak_sushi").rglob("*.jpg"))[:300]
        for number, path in enumerate(kept):
            (folder / "data" / "val" / str(number % 10)).mkdir(parents=True, exist_ok=True)
            (folder / "data" / "val" / str(number % 10) / path.name).symlink_to(path)
        (folder / "data" / "train").symlink_to(folder / "digits")
    else:
        write_digits(folder / "data")
    manifest = scan(folder / "data", seed=0, val_fraction=0.2)
    files.write_json(folder / "run" / "manifest.json", manifest.to_json())
    return folder / "run"


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("format", "with_graph"), [*((format, False) for format in EXPORTERS), ("onnx", True)])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(run: Path, name: str, format: str, with_graph: bool, request: pytest.FixtureRequest) -> None:
    if format == "openvino":
        request.getfixturevalue("openvino")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=10)
    spec = Preprocessing.from_pretrained_cfg(model.pretrained_cfg)
    options: dict[str, Any] = {"classes": list("0123456789"), "preprocessing": spec, "facts": {}}
    if with_graph:
        classifier = next(key for key, one in model.named_modules() if one is model.get_classifier())
        options |= {"graph": trace.graph_of(model, spec), "classifier": classifier}
    bundle.save_model(run / "model", model, **options)
    report = export(run, format=format)
    assert report.compared_with.startswith("predict on the CPU" if with_graph else "the model in torch")
    for found in report.parity:
        sys.stderr.write(
            f"\n{name} {format} {found.given} by {found.batch_size}: {found.images} images, {found.sizes} sizes: "
            f"differ by {found.largest_difference:.1e}, same answer {found.top1:.4f}, {found.ties} tied"
        )
    prepared = [found for found in report.parity if found.given == "prepared"]
    assert prepared[-1].images >= 256
    assert max(found.largest_difference for found in prepared) <= 1e-4
    assert all(round(found.top1 * found.images) + found.ties == found.images for found in report.parity)

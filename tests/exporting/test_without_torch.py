"""A model whose bundle has a graph is exported to ONNX without torch in the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, ResourceError
from cnn_tl.exporting import export as exporting
from cnn_tl.exporting.export import export

PROGRAM = """
import sys
from pathlib import Path
from cnn_tl.cli import app
from cnn_tl.exporting import precision_cost
precision_cost.ENOUGH_SECONDS = 0.0
run = Path(sys.argv[1])
for precision in ("fp32", "fp16", "int8"):
    bounds = [] if precision == "fp32" else ["--max-drop", "100", "--min-agreement", "0"]
    options = ["--output", str(run / f"{precision}.onnx"), "--precision", precision, *bounds]
    assert app.run(["export", str(run), *options]) == 0
found = {name.partition(".")[0] for name in sys.modules} & {"torch", "torchvision", "timm", "onnxscript"}
assert not found, found
"""


def test_no_torch_in_any_precision(graph_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(graph_run)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("predict on the CPU: onnxruntime, one image at a time") == 3
    report = files.read_json(graph_run / "fp32.onnx.json")
    assert report["compared_with"] == "predict on the CPU: onnxruntime, one image at a time"
    assert [(one["batch_size"], one["top1"]) for one in report["parity"]] == [(size, 1) for size in (1, 2, 7, 33)] * 2


def missing(purpose: str) -> None:
    raise ResourceError(f"torch is needed for {purpose}")


@pytest.mark.parametrize(
    ("with_graph", "format", "message"),
    [
        (True, "timm", "torch is needed for --format timm"),
        (True, "torch", "torch is needed for --format torch"),
        (False, "onnx", "torch is needed for a model without graph\\.onnx"),
    ],
)
def test_what_needs_torch_says_what_for(
    with_graph: bool, format: str, message: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Path = request.getfixturevalue("graph_run" if with_graph else "run")
    monkeypatch.setattr(exporting, "require_torch", missing)
    before = sorted(run.rglob("*"))
    with pytest.raises(ResourceError, match=rf"^{message}$"):
        export(run, format=format)
    assert sorted(run.rglob("*")) == before


def test_a_bundle_without_a_graph_is_compared_with_torch(run: Path) -> None:
    assert export(run).compared_with == "the model in torch"


@pytest.mark.parametrize("damaged", [b"not a graph", None])
def test_a_graph_that_does_not_fit_leaves_no_file(graph_run: Path, damaged: bytes | None) -> None:
    graph = graph_run / "model" / "graph.onnx"
    if damaged is None:
        from cnn_tl.networks.graph import shipped

        lite0 = shipped.read("tf_efficientnet_lite0")
        assert lite0 is not None
        damaged = lite0.graph
    graph.write_bytes(damaged)
    files.write_checksums(graph_run / "model")
    before = sorted(graph_run.rglob("*"))
    with pytest.raises(ArtefactError, match=r"damaged|belongs to another model"):
        export(graph_run)
    assert sorted(graph_run.rglob("*")) == before

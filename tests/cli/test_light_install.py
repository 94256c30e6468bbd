"""`cnn-tl predict MODEL.onnx` where only a few packages are installed: really absent, not merely not imported."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import cnn_tl
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks import onnx_model

LIGHT = ["numpy", "PIL", "onnxruntime", "typer", "rich"]
THEIRS = ["pydantic", "pydantic_core", "annotated_types", "annotated_doc", "typing_extensions", "typing_inspection"]
THEIRS += ["shellingham", "markdown_it", "mdurl", "pygments", "flatbuffers", "google", "packaging"]
SPEC = Preprocessing(8, 8, "bicubic", 0.875, "center", (0.5,) * 3, (0.5,) * 3)


def install(folder: Path, names: list[str]) -> Path:
    """Link these packages into a folder, with the shared libraries that lie beside some of them."""
    folder.mkdir()
    for name in names:
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue
        home = Path(spec.origin) if spec.submodule_search_locations is None else Path(*spec.submodule_search_locations)
        for path in (home, home.with_name(f"{name.lower()}.libs"), home.with_name("pillow.libs")):
            if path.exists() and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("env") / "packages", [*LIGHT, *THEIRS])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A .onnx file that tells red from blue, and a red image beside it."""
    Image.new("RGB", (20, 20), "red").save(tmp_path / "red.jpg")
    weight = np.diag([4, 4, 4]).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["colours"]),
            helper.make_node("Gemm", ["colours", "weight"], ["logits"]),
        ],
        "colours",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, "weight")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(made, onnx_model.metadata(("red", "green", "blue"), SPEC, "colours", 18))
    content = onnx.ModelProto.SerializeToString(made)
    (tmp_path / "model.onnx").write_bytes(content + onnx_model.checksum(content))
    return tmp_path / "model.onnx"


def run(packages: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(cnn_tl.__file__).parents[1]), str(packages)])
    command = [sys.executable, "-S", "-m", "cnn_tl", *arguments]  # -S: no site-packages but those of PYTHONPATH
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | {"PYTHONPATH": path})


def test_predicts_with_a_few_packages(light: Path, model: Path) -> None:
    done = run(light, "predict", "model.onnx", "red.jpg", "--format", "jsonl", cwd=model.parent)
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert (answer["label"], answer["probability"]) == ("red", pytest.approx(1 / (1 + 2 * np.exp(-8)), abs=1e-3))


def test_the_guides_are_read_with_a_few_packages(light: Path, tmp_path: Path) -> None:
    done = run(light, "guide", "reference", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "export.min_agreement" in done.stdout
    assert "reference" in run(light, "guide", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "package"),
    [
        (["predict", "model.onnx", "red.jpg", "--output", "a.parquet"], "pyarrow"),
        (["train", "."], "pyyaml"),
        (["recipes", "list"], "pyyaml"),
        (["cache", "info"], "safetensors"),
    ],
)
def test_what_is_missing_is_one_line(light: Path, model: Path, arguments: list[str], package: str) -> None:
    done = run(light, *arguments, cwd=model.parent)
    assert (done.returncode, done.stdout) == (5, ""), done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(f"not installed: pip install {package}\n")


def test_without_what_every_command_needs(tmp_path: Path) -> None:
    done = run(install(tmp_path / "none", ["numpy"]), "--help", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (5, "")
    assert re.fullmatch(r"error: (rich|typer) is needed here and not installed: pip install \1\n", done.stderr)

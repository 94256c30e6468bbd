"""Answers never take the place of the model, its run or an image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnn_tl.core.errors import ResourceError, UsageError
from cnn_tl.inference.safe_output import OF_A_RUN, refuse_as_output, require_harmless, require_plot_place
from cnn_tl.training.checkpoints import digests
from cnn_tl.training.run_folder import RunFolder


@pytest.fixture(autouse=True)
def _run_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["run/model/config.json", "run/recipe.yaml", "run/manifest.json", "run/model.onnx", "run/model.onnx.json"]
    names += ["run/model-timm/SHA256SUMS", "run/model-timm/config.json", "run/model-timm.json"]
    for name in [*names, "lone/config.json", "m.onnx", "m.onnx.json"]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)
    Path("run/model-timm/SHA256SUMS").write_text(f"{'0' * 64}  config.json\n")
    Path("run/model-timm/answers.csv").touch()
    Image.new("RGB", (20, 20)).save("image.png")
    Path("image.png").rename("image.dat")
    Path("link.csv").symlink_to("m.onnx")


@pytest.mark.parametrize(
    ("output", "model", "why"),
    [
        ("m.onnx", "m.onnx", "would overwrite part of the model m.onnx"),
        ("m.onnx.json", "m.onnx", "would overwrite part of the model"),
        ("link.csv", "m.onnx", "would overwrite part of the model"),
        ("run/model/config.json", "run", "would overwrite part of the model run"),
        ("run/model/new.csv", "run", "would overwrite part of the model run"),
        ("run/recipe.yaml", "run", "would overwrite part of the model run"),
        ("run/recipe.yaml", "run/model", "would overwrite part of the model run/model"),
        ("run/checkpoints/best-00001/state.json", "run", "would overwrite part of the model run"),
        ("lone/config.json", "lone", "would overwrite part of the model lone"),
        ("run/model/config.json", "m.onnx", "would overwrite part of run"),
        ("run/recipe.yaml", "run/model.onnx", "would overwrite part of run"),
        ("run/model.onnx", "run", "is named like a model"),
        ("new.onnx", "run", "is named like a model"),
        ("run/model.onnx.json", "run", "would overwrite part of model.onnx"),
        ("run/model-timm/config.json", "m.onnx", "would overwrite part of model-timm"),
        ("run/model-timm/SHA256SUMS", "m.onnx", "would overwrite part of model-timm"),
        ("run/model-timm.json", "run", "would overwrite part of model-timm"),
        ("a.jpg", "run", "is named like an image"),
        ("run", "run", "is not a regular file"),
    ],
)
def test_what_answers_may_not_replace(cli: Callable[..., Any], output: str, model: str, why: str) -> None:
    before = Path(output).read_text() if Path(output).is_file() else None
    done = cli("predict", model, "image.dat", "--output", output)
    assert done.code == 2
    assert f"error: --output {output} {why}" in done.err
    assert before is None or Path(output).read_text() == before


@pytest.mark.parametrize(
    ("output", "model"),
    [
        ("a.csv", "m.onnx"),
        ("run/model-timm/answers.csv", "run"),
        ("run/a.csv", "run"),
        ("run/a.json", "run/model.onnx"),
        ("recipe.yaml", "lone"),
    ],
)
def test_what_answers_may_replace(output: str, model: str) -> None:
    require_harmless(Path(output), Path(model))


def test_all_of_a_run_is_known() -> None:
    names = {path.relative_to("run").parts[0] for path in vars(RunFolder(Path("run"))).values() if path != Path("run")}
    assert names | {digests.DIGESTS} == OF_A_RUN | {"model"}


def test_a_image_is_never_replaced() -> None:
    Path("same").hardlink_to("image.dat")
    with pytest.raises(UsageError, match=r"--output same is one of the images"):
        list(refuse_as_output(Path("same"), [Path("absent"), Path("image.dat")]))
    assert list(refuse_as_output(Path("new"), [Path("image.dat")])) == [Path("image.dat")]
    assert list(refuse_as_output(None, [Path("image.dat")])) == [Path("image.dat")]


def test_a_plot_replaces_plots_only(tmp_path: Path) -> None:
    from cnn_tl.plots import figure

    plot = Path("a.png")
    require_plot_place(plot)
    require_plot_place(Path("new/folder/a.png"))
    figure.write(figure.new_figure(2), plot)
    require_plot_place(plot)
    Image.new("RGB", (20, 20)).save("photo.png")
    Path("text.png").write_text("no image")
    Path("dangling.png").symlink_to("nowhere")
    for name in ("photo.png", "text.png", "dangling.png"):
        with pytest.raises(UsageError, match=f"--output {name} exists and is not a plot of cnn-tl"):
            require_plot_place(Path(name))
    with pytest.raises(ResourceError, match=r"cannot write m\.onnx/a\.png into .*m\.onnx; choose another --output"):
        require_plot_place(Path("m.onnx/a.png"))
    with pytest.raises(UsageError, match=r"^--risk-plot a\.txt: the plot is a PNG"):
        require_plot_place(Path("a.txt"), "--risk-plot")

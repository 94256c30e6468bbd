"""`cnn-tl explain` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.networks import bundle

CLASSES = ("ant", "bee", "c$_x$")
SPEC = Preprocessing(64, 64, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a bundle of a small network with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("test_resnet", pretrained=False, num_classes=3).eval()
        torch.nn.init.normal_(network.get_classifier().weight)
    folder = tmp_path_factory.mktemp("run") / "model"
    bundle.save_model(folder, network, classes=CLASSES, preprocessing=SPEC, facts={})
    return folder


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work beside two folders of images, one of them broken; two have the same name, one a strange one."""
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Image.effect_noise((80, 60), 80 + ord(folder[0])).convert("RGB").save(f"{folder}/1.png")
    Image.effect_noise((70, 90), 60).convert("RGB").save("b/$x_$ *[contact-sheet].png")


def rows(folder: str) -> list[dict[str, Any]]:
    return json.loads(Path(folder, "explanations.json").read_text())["rows"]


def test_a_heat_map_each_and_a_contact_sheet(cli: Callable[..., Any], model: Path) -> None:
    done = cli("explain", model, "a", "b")
    assert done.code == 0, done.err
    names = sorted(path.name for path in Path("explanations/gradcam").iterdir())
    images = ["1-2.png", "1.png", "_x__ __contact-sheet_.png", "contact-sheet.png"]
    assert names == sorted([*images, "SHA256SUMS", "explanations.json"])
    assert "deletion better than a random map on" in done.out
    assert "of 3 images" in done.out
    assert "layer layer4" in done.out
    for row in rows("explanations/gradcam"):
        assert row["class"] == row["label"]
        assert not row["empty"]
        areas = [row[name] for name in ("deletion", "insertion", "random_deletion", "random_insertion")]
        assert all(area is None for area in areas) or all(isinstance(area, float) for area in areas)
    with Image.open("explanations/gradcam/1.png") as image:
        assert image.size[0] == 1600


def test_the_true_class_is_named_where_the_folder_tells(cli: Callable[..., Any], model: Path) -> None:
    right = json.loads(cli("explain", model, "a/1.png", "--no-faithfulness", "--json").out)["rows"][0]["label"]
    wrong = next(name for name in CLASSES[:2] if name != right)
    for name in (right, wrong, "x"):
        Path("photos", name).mkdir(parents=True)
        Path("photos", name, "1.png").write_bytes(Path("a/1.png").read_bytes())
    done = cli("explain", model, "photos", "--no-faithfulness")
    true = {row["file"]: (row["label"], row["true"]) for row in rows("explanations/gradcam")}
    named = {f"photos/{name}/1.png": (right, name) for name in (right, wrong)}
    assert true == {**named, "photos/x/1.png": (right, None)}
    assert done.out.count(f"{right}, not {wrong}") == 1
    assert " not " not in done.out.replace(f"{right}, not {wrong}", "")


def test_the_same_images_in_the_same_bytes(cli: Callable[..., Any], model: Path) -> None:
    for folder in ("one", "other"):
        assert cli("explain", model, "a", "--method", "occlusion", "--output", folder).code == 0
    for name in ("1.png", "contact-sheet.png"):
        assert Path("one", name).read_bytes() == Path("other", name).read_bytes()


OTHERS = ["xgradcam", "layercam", "feature-maps", "deconv", "guided", "top-patches", "filters"]


@pytest.mark.parametrize("method", OTHERS)
def test_every_method_writes_its_images(cli: Callable[..., Any], model: Path, method: str) -> None:
    images = [] if method == "filters" else ["a", "b"]
    done = cli("explain", model, *images, "--method", method, "--no-faithfulness", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["method"] == method
    for name in [*report["sheets"], *(row["image"] for row in report["rows"])]:
        with Image.open(Path("explanations", method, name)) as image:
            image.load()
    count = {"filters": 1, "top-patches": 8}.get(method, 3)
    assert len(report["rows"]) == count


def test_top_patches_are_the_strongest_of_all(cli: Callable[..., Any], model: Path) -> None:
    """Against a plain search: each image's highest activation of the channel, sorted."""
    from cnn_tl.data.views import transforms
    from cnn_tl.explaining import target_layers
    from cnn_tl.explaining.model import load

    for number in range(12):
        Image.effect_noise((64, 64), 10 * number + 10).convert("RGB").save(f"a/n{number}.png")
    done = cli("explain", model, "a", "--method", "top-patches", "--layer", "layer2", "--channel", 5, "--json")
    [row] = json.loads(done.out)["rows"]
    explained = load(model, "cpu")
    layer = target_layers.find(explained.network, explained.grey_input(), "layer2")
    peaks = {}
    for path in Path("a").iterdir():
        x = explained.to_input(transforms.read_pixels(path, SPEC))
        peaks[str(path)] = round(float(target_layers.activations(explained.network, layer, x)[0, 5].max()), 4)
    best = sorted(peaks, key=lambda path: -peaks[path])[:9]
    assert [found["activation"] for found in row["best"]] == pytest.approx([peaks[path] for path in best], abs=2e-4)
    assert {found["file"] for found in row["best"]} == set(best)


def test_a_broken_image_is_a_row_and_exit_3(cli: Callable[..., Any], model: Path) -> None:
    Path("a/broken.png").write_bytes(Path("a/1.png").read_bytes()[:300])
    done = cli("explain", model, "a", "--no-faithfulness")
    assert done.code == 3
    assert "error: truncated PNG" in " ".join(done.out.split())
    assert done.err.endswith("error: 1 of 2 images could not be read; its row says why\n")
    assert [row["error"] is None for row in rows("explanations/gradcam")] == [True, False]


@pytest.mark.parametrize("method", ["gradcam", "top-patches"])
def test_where_no_image_can_be_read_earlier_explanations_stay(
    cli: Callable[..., Any], model: Path, method: str
) -> None:
    arguments = ("--no-faithfulness", "--output", "out", "--method", method)
    assert cli("explain", model, "a", *arguments).code == 0
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    Path("a/1.png").write_bytes(Path("a/1.png").read_bytes()[:300])
    done = cli("explain", model, "a", *arguments)
    assert done.code == 3
    assert done.err.endswith("error: no image can be read, such as a/1.png: truncated PNG\n")
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before


def test_another_class_than_the_predicted_one(cli: Callable[..., Any], model: Path) -> None:
    assert cli("explain", model, "a", "--class", "bee", "--no-faithfulness").code == 0
    assert rows("explanations/gradcam")[0]["class"] == "bee"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--class", "be"], 2, "did you mean bee?"),
        (["--layer", "layer9"], 2, "did you mean layer4"),
        (["--layer", "fc"], 2, "returns no map of the image"),
        (["--method", "occlusion", "--layer", "layer4"], 2, "does not use --layer"),
        (["--patch", "0.5"], 2, "does not use --patch; these do: occlusion"),
        (["--method", "deconv", "--channel", "9999"], 2, "has no channel 9999"),
        (["--method", "filters"], 2, "does not use IMAGES"),
        (["--output", "a"], 2, "holds files that cnn-tl explain did not write, such as 1.png"),
        (["--output", "a/1.png"], 2, "is not a folder"),
        (["--method", "gradcm"], 2, "gradcam"),
        (["--patch", "nan", "--method", "occlusion"], 2, "less than or equal to 1"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    cli: Callable[..., Any], model: Path, arguments: list[str], code: int, said: str
) -> None:
    done = cli("explain", model, "a", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert sorted(path.name for path in Path("a").iterdir()) == ["1.png"]


def test_no_images_and_an_export(cli: Callable[..., Any], model: Path) -> None:
    done = cli("explain", model)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "needs images" in done.err
    Path("model.onnx").touch()
    done = cli("explain", "model.onnx", "a")
    assert done.code == 2
    assert "has no gradients; name the run folder" in done.err


def test_an_earlier_folder_of_ours_is_replaced_and_one_with_more_in_it_is_not(
    cli: Callable[..., Any], model: Path
) -> None:
    arguments = ("explain", model, "b", "--method", "feature-maps", "--output", "out")
    assert cli(*arguments, "--limit", 1).code == 0
    assert cli(*arguments).code == 0
    assert len(rows("out")) == 2
    Path("out/mine.txt").write_text("kept")
    done = cli(*arguments)
    assert done.code == 2
    assert "such as mine.txt" in done.err
    assert Path("out/mine.txt").read_text() == "kept"

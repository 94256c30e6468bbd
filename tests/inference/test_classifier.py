"""One answer for each image, in order, from any kind of source."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.api.prediction import predict
from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, UsageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.progress import Observer
from cnn_tl.core.statistics import softmax
from cnn_tl.data.loader import Pixels
from cnn_tl.data.reading import ahead
from cnn_tl.data.views import transforms
from cnn_tl.features import engine
from cnn_tl.inference import loading
from cnn_tl.inference.classifier import Answer, Classifier, Logits
from cnn_tl.inference.loading import load

CLASSES = ("dark", "grey", "light")
SPEC = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def by_brightness(pixels: Pixels) -> Logits:
    """Logits of a model that can tell dark from light: the nearer to a class's brightness, the larger."""
    brightness = pixels.mean(axis=(1, 2, 3), dtype=np.float32)[:, None]
    return -np.abs(brightness - np.array([0, 128, 255], np.float32)) / 16


MODEL = Classifier(CLASSES, SPEC, by_brightness)


class Record(Observer):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def start(self, task: str, total: int | None, unit: str = "images") -> None:
        self.heard.append((task, total))

    def advance(self, done: int, figures: Mapping[str, float] | None = None) -> None:
        self.heard.append(done)

    def finish(self) -> None:
        self.heard.append("finished")


def image(path: Path, brightness: int) -> Path:
    Image.new("RGB", (20, 20), (brightness,) * 3).save(path)
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> list[Path]:
    """Seven names: images, and between them two that cannot be read."""
    broken = tmp_path / "broken.png"
    Image.effect_noise((64, 64), 50).save(broken)
    broken.write_bytes(broken.read_bytes()[:500])
    light, dark = image(tmp_path / "light.png", 250), image(tmp_path / "dark.png", 5)
    return [light, broken, dark, tmp_path / "absent.png", light, dark, image(tmp_path / "grey.png", 130)]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 32])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_answers_come_in_the_order_of_the_names(mixed: list[Path], batch_size: int, workers: int) -> None:
    answers = list(MODEL.predict(mixed, batch_size=batch_size, workers=workers))
    assert [answer.file for answer in answers] == [str(path) for path in mixed]
    assert [answer.label for answer in answers] == ["light", None, "dark", None, "light", "dark", "grey"]


def test_failure_says_why_and_has_no_label(mixed: list[Path]) -> None:
    _, broken, _, absent, *_ = MODEL.predict(mixed)
    assert broken == Answer(str(mixed[1]), None, None, (), "truncated PNG")
    assert absent == Answer(str(mixed[3]), None, None, (), "no such file or directory")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (answer,) = MODEL.predict(tmp_path / "pipe.png")
    assert answer.error == "not a regular file"


@pytest.mark.parametrize(("top", "expected"), [(1, "light"), (2, "light grey"), (9, "light grey dark")])
def test_top(tmp_path: Path, top: int, expected: str) -> None:
    (answer,) = MODEL.predict(image(tmp_path / "a.png", 255), top=top)
    assert " ".join(label for label, _ in answer.top) == expected
    assert answer.top[0] == (answer.label, answer.probability)


def test_probabilities_are_the_softmax_of_the_logits(tmp_path: Path) -> None:
    (answer,) = MODEL.predict(image(tmp_path / "a.png", 128), top=3)
    weights = {"dark": np.exp(-8), "grey": 1.0, "light": np.exp(-127 / 16)}
    assert dict(answer.top) == pytest.approx({name: w / sum(weights.values()) for name, w in weights.items()})


def test_softmax_survives_large_logits() -> None:
    probabilities = softmax(np.array([[1e4, 1e4 - 1, -1e30]], np.float32))
    assert probabilities[0] == pytest.approx([1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 0])


def test_work_is_done_as_answers_are_taken(tmp_path: Path) -> None:
    calls: list[int] = []

    def counting(pixels: Pixels) -> Logits:
        calls.append(len(pixels))
        return by_brightness(pixels)

    record = Record()
    path = image(tmp_path / "a.png", 0)
    answers = Classifier(CLASSES, SPEC, counting).predict([path] * 10, batch_size=2, observer=record)
    assert isinstance(answers, Iterator)
    assert (calls, record.heard) == ([], [])
    next(answers)
    assert calls == [2]
    answers.close()  # type: ignore[attr-defined]
    assert (calls, record.heard) == ([2], [("predicting", 10), "finished"])


def test_progress_counts_images_that_could_not_be_read(mixed: list[Path]) -> None:
    record = Record()
    list(MODEL.predict(mixed, batch_size=4, observer=record))
    assert record.heard == [("predicting", 7), 4, 3, "finished"]


def test_answer_as_plain_data() -> None:
    answer = Answer("a.png", "cat", 1 / 3, (("cat", 1 / 3), ("dog", 0.25)), None)
    cat, dog = {"label": "cat", "probability": 0.333333}, {"label": "dog", "probability": 0.25}
    assert answer.to_dict() == {
        "file": "a.png",
        **cat,
        "top": [cat, dog],
        **dict.fromkeys(["verdict", "set", "distance", "error"]),
    }


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a tiny model of random weights."""
    import timm
    import torch

    from cnn_tl.networks import bundle

    folder = tmp_path_factory.mktemp("run")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", pretrained=False, num_classes=3)
        torch.nn.init.normal_(model.get_classifier().weight)  # else all answers are alike
    spec = Preprocessing.from_pretrained_cfg(model.pretrained_cfg, 64)
    bundle.save_model(folder / "model", model, classes=CLASSES, preprocessing=spec, facts={})
    files.write_text(folder / "recipe.yaml", "mode: freeze\n")
    return folder


@pytest.fixture
def noise(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (90, 120, 3), np.uint8)).save(path)
    return paths


def test_bundle_answers_as_timm_does(run_folder: Path, noise: list[Path]) -> None:
    import timm
    import torch

    model = timm.create_model(f"local-dir:{run_folder / 'model'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
    with torch.inference_mode():
        expected = torch.stack([model(transform(Image.open(path))[None])[0] for path in noise]).softmax(1)
    answers = load(run_folder).predict(noise, top=3, batch_size=2)
    for answer, row in zip(answers, expected.tolist(), strict=True):
        assert dict(answer.top) == pytest.approx(dict(zip(CLASSES, row, strict=True)), abs=1e-5)


def test_run_folder_and_bundle_are_the_same(run_folder: Path, noise: list[Path]) -> None:
    assert list(predict(run_folder, noise)) == list(predict(str(run_folder / "model"), map(str, noise)))


def test_one_image_alone_gets_the_answer_it_has_among_others(run_folder: Path, noise: list[Path]) -> None:
    model = load(run_folder)
    together = [answer.probability for answer in model.predict(noise)]
    assert [a.probability for path in noise for a in model.predict(path)] == pytest.approx(together, abs=1e-6)


@pytest.mark.parametrize("guess", [False, True, None])
def test_a_model_that_is_loaded_in_the_background_gives_the_same_answers(
    run_folder: Path, noise: list[Path], monkeypatch: pytest.MonkeyPatch, guess: bool | None
) -> None:
    """Also where a GPU was expected, with larger batches, and there is none; and where there is no telling."""
    monkeypatch.setattr(loading, "will_be_cuda", lambda device: guess)
    monkeypatch.setattr(loading, "BATCH_SIZE", 4)
    many = noise * 3
    expected = list(load(run_folder, "cpu").predict(many, top=3, batch_size=4))
    model = load(run_folder, "cpu", in_background=True)
    assert model.batch_size == (256 if guess else 4)
    assert list(model.predict(many, top=3, batch_size=None if guess else 4)) == expected


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let engines on the CPU take the paths of CUDA: batches of few sizes, read after the next one has started."""
    real = engine.Engine.__init__

    def asynchronous(self: engine.Engine, *arguments: Any, **options: Any) -> None:
        real(self, *arguments, **options)
        self.is_asynchronous = True

    monkeypatch.setattr(engine.Engine, "__init__", asynchronous)


@pytest.mark.parametrize("in_background", [False, True])
def test_answers_are_the_same_where_the_next_batch_runs_already(
    run_folder: Path, mixed: list[Path], noise: list[Path], monkeypatch: pytest.MonkeyPatch,
    as_on_cuda: None, in_background: bool,
) -> None:  # fmt: skip
    monkeypatch.setattr(loading, "will_be_cuda", lambda device: True)
    names = [*mixed, *noise * 4]
    model = load(run_folder, "cpu", in_background=in_background)
    assert (model.batch_size, model.engine is not None and model.engine.is_asynchronous) == (256, True)
    together = list(model.predict(names, top=3))
    by_threes = list(load(run_folder, "cpu", batch_size=3).predict(names, top=3, batch_size=3))
    assert [answer.file for answer in together] == [str(name) for name in names]
    for one, other in zip(together, by_threes, strict=True):
        assert (one.label, one.error) == (other.label, other.error)
        assert dict(one.top) == pytest.approx(dict(other.top), abs=1e-5)


def test_images_are_read_while_the_model_is_loaded(
    run_folder: Path, noise: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    has_read, real = threading.Event(), loading.bundle.load

    def loaded(folder: Path) -> object:
        assert has_read.wait(20), "nothing is read before the model is loaded"
        return real(folder)

    def read(image: object, spec: Preprocessing) -> Pixels:
        has_read.set()
        return np.zeros((64, 64, 3), np.uint8)

    monkeypatch.setattr(loading.bundle, "load", loaded)
    monkeypatch.setattr(loading, "will_be_cuda", lambda device: False)
    monkeypatch.setattr(transforms, "read_pixels", read)
    assert len(list(load(run_folder, "cpu", in_background=True).predict(noise))) == 5


def test_a_damaged_model_is_reported_before_anything_is_written(
    run_folder: Path, noise: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Any]
) -> None:
    monkeypatch.setattr(ahead, "PROCESSES_FROM", 1)  # so that it is loaded in the background
    monkeypatch.setattr(ahead, "IMAGES_EACH", 1)
    damaged = shutil.copytree(run_folder, tmp_path / "damaged")
    weights = damaged / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    outcome = cli("predict", damaged, *noise, "--format", "csv", "--device", "cpu", "--workers", 2)
    assert (outcome.code, outcome.out) == (4, "")
    assert "model.safetensors" in outcome.err


def test_predict_finds_and_loads_at_once(tmp_path: Path, run_folder: Path) -> None:
    with pytest.raises(ArtefactError, match="does not exist"):
        predict(tmp_path / "absent", "a.png")


def test_unfinished_run(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mode: freeze\n")
    with pytest.raises(ArtefactError, match="training has not finished"):
        load(tmp_path)


def test_onnx_file_gives_the_same_answers_without_torch(run_folder: Path, noise: list[Path], tmp_path: Path) -> None:
    from cnn_tl.exporting.formats.onnx import write
    from cnn_tl.exporting.options import Options
    from cnn_tl.networks import bundle

    write(bundle.load(run_folder), tmp_path / "model.onnx", Options())
    code = (
        "import sys, json; from cnn_tl.api.prediction import predict\n"
        "print(json.dumps([dict(answer.top) for answer in predict(sys.argv[1], sys.argv[2:], top=3)]))\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, tmp_path / "model.onnx", *noise]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    expected = [pytest.approx(dict(answer.top), abs=1e-5) for answer in predict(run_folder, noise, top=3)]
    assert json.loads(done.stdout) == expected


def test_onnx_has_no_other_device(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.onnx runs on the CPU; for --device cuda name the"):
        load(tmp_path / "model.onnx", "cuda")


def test_images_that_show_nothing_are_named_in_the_end(tmp_path: Path) -> None:
    class Warned(Observer):
        def __init__(self) -> None:
            self.lines: list[str] = []

        def warn(self, text: str) -> None:
            self.lines.append(text)

    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(tmp_path / "empty.png")
    Image.radial_gradient("L").save(tmp_path / "round.png")
    image(tmp_path / "plain.png", 40)
    observer = Warned()
    assert len(list(MODEL.predict(tmp_path, observer=observer))) == 3
    assert observer.lines == [
        f"images that are completely transparent, and so white: 1 ({tmp_path / 'empty.png'})",
        f"images of one colour all over: 1 ({tmp_path / 'plain.png'})",
    ]


def test_a_model_that_overflows_gives_no_answer() -> None:
    """NaN would be a probability of whatever class comes first."""
    spoilt = Classifier(("one", "two"), SPEC, lambda pixels: np.full((len(pixels), 2), np.nan, np.float32))
    with pytest.raises(ArtefactError, match="the model's logits are not finite"):
        list(spoilt.predict(np.zeros((20, 20, 3), np.uint8)))


@pytest.mark.parametrize("shares", [{"max_error": 5}, {"max_error": 0.0}, {"unknown": 1.0}, {"unknown": -0.1}])
def test_shares_that_cannot_be_are_refused(shares: dict[str, float], mixed: list[Path]) -> None:
    with pytest.raises(UsageError, match=r"allowed a share above 0 and below 1"):
        MODEL.predict(mixed, **shares)

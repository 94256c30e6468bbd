"""What predict takes besides files: PIL images, arrays, bytes, and lists of anything."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.core.errors import UsageError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.inference.classifier import Answer, Classifier

SPEC = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def logits(pixels_NHWC: Any) -> Any:
    """Let every pixel have a say, so that another image has another answer."""
    weights = np.linspace(-1, 1, 16 * 16 * 3).reshape(16, 16, 3)
    says_N = (pixels_NHWC * weights).mean(axis=(1, 2, 3))
    return np.stack([says_N, 0 * says_N], axis=1).astype(np.float32)


MODEL = Classifier(("one", "two"), SPEC, logits)


def probability(answer: Answer) -> float:
    return dict(answer.top)["one"]


def noise(mode: str, width: int = 30, height: int = 20) -> Image.Image:
    channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,), "CMYK": (4,)}[mode]
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, *channels), np.uint8)
    return Image.fromarray(pixels, mode=None if mode in ("L", "RGB", "RGBA", "LA") else mode)


def palette() -> Image.Image:
    made = noise("RGB").quantize(16)
    made.info["transparency"] = 3
    return made


def deep() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 2**16, (20, 30), np.uint16))


def turned() -> Image.Image:
    """Return an image whose EXIF says that it lies on its side."""
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    noise("RGB").save(stream, "PNG", exif=exif)
    return Image.open(io.BytesIO(stream.getvalue()))


IMAGES: dict[str, Callable[[], Image.Image]] = {mode: partial(noise, mode) for mode in ("RGB", "L", "RGBA", "LA")}
IMAGES |= {"palette": palette, "16 bits": deep, "on its side": turned}


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_in_memory_is_answered_like_its_file(kind: str, tmp_path: Path) -> None:
    image = IMAGES[kind]()
    path = tmp_path / "image.png"
    image.save(path, **({"exif": image.getexif()} if kind == "on its side" else {}))
    before = image.size, image.mode, image.tobytes()
    [file, memory, content] = MODEL.predict([path, image, path.read_bytes()], top=2)
    assert probability(memory) == probability(file) == probability(content)
    assert 0.01 < probability(file) < 0.99
    assert (image.size, image.mode, image.tobytes()) == before, "it is the caller's"


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_an_array_is_answered_like_the_image(mode: str) -> None:
    image = noise(mode)
    array = np.asarray(image)
    shapes = [array, array[:, :, None]] if mode == "L" else [array]
    expected, *found = MODEL.predict([image, *shapes], top=2)
    assert [probability(one) for one in found] == [probability(expected)] * len(shapes)
    assert [one.file for one in found] == [f"image {n}" for n in range(1, 1 + len(shapes))]


def test_one_image_and_a_batch_of_them() -> None:
    arrays = np.random.default_rng(3).integers(0, 256, (3, 20, 30, 3), np.uint8)
    batch = list(MODEL.predict(arrays, top=2))
    alone = [next(iter(MODEL.predict(array, top=2))) for array in arrays]
    assert [probability(one) for one in batch] == [probability(one) for one in alone]
    assert len({probability(one) for one in batch}) == 3
    assert [one.file for one in batch] == ["image 0", "image 1", "image 2"]


def test_everything_together_in_the_order_given(tmp_path: Path) -> None:
    for number in range(3):
        noise("RGB", 20 + number).save(tmp_path / f"{number}.png")
    opened = Image.open(tmp_path / "0.png")
    given = [np.asarray(noise("RGB")), tmp_path, str(tmp_path / "1.png"), opened, f"{tmp_path}/*2.png"]
    names = [Path(answer.file).name for answer in MODEL.predict(iter(given))]
    assert names == ["image 0", "0.png", "1.png", "2.png", "1.png", "0.png", "2.png"]


def test_the_same_opened_image_many_times_in_many_threads(tmp_path: Path) -> None:
    noise("RGB", 400, 300).save(tmp_path / "image.png")
    opened = Image.open(tmp_path / "image.png")
    answers = list(MODEL.predict([opened] * 24, top=2, workers=8))
    assert {(one.error, probability(one)) for one in answers} == {(None, probability(answers[0]))}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            np.zeros((20, 20, 3)),
            "an array of float64 does not say which value is white; give uint8 from 0 to 255: where ",
        ),
        (np.zeros((20, 20, 3), np.int32), "an array of int32 does not say which value is white; give uint8"),
        (np.zeros((20, 20), bool), "an array of bool does not say"),
        (np.zeros((3, 20, 30), np.uint8), r"3 x 20 x 30 has its channels first; give array.transpose\(1, 2, 0\)"),
        (np.zeros((20, 30, 5), np.uint8), "an array of 20 x 30 x 5 is not an image; give a path, a PIL image, or"),
        (np.zeros((0, 30, 3), np.uint8), "an array of 0 x 30 x 3 is not an image"),
        (np.zeros(9, np.uint8), "an array of 9 is not an image"),
        (None, "NoneType is not an image"),
        (7, "int is not an image"),
        ([3.5], "float is not an image"),
        ([["a.png"]], "list is not an image"),
    ],
    ids=str,
)
def test_what_is_no_image_is_refused_at_once(wrong: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        MODEL.predict(wrong)


def test_a_tensor_is_refused_by_its_name() -> None:
    torch = pytest.importorskip("torch")
    for wrong in (torch.zeros(3, 20, 20), [torch.zeros(3, 20, 20)]):
        with pytest.raises(UsageError, match=r"torch\.Tensor is not an image"):
            MODEL.predict(wrong)


def test_what_is_an_image_and_cannot_be_used_is_an_answer(tmp_path: Path) -> None:
    noise("RGB").save(tmp_path / "image.png")
    whole = (tmp_path / "image.png").read_bytes()
    cut = Image.open(io.BytesIO(whole[: len(whole) // 2]))
    answers = list(MODEL.predict([np.zeros((2, 30, 3), np.uint8), cut, whole[:100], np.zeros((30, 30), np.uint8)]))
    assert [one.error is None for one in answers] == [False, False, False, True]
    assert "a side under 4" in str(answers[0].error)
    assert "truncated" in str(answers[1].error)


def test_what_a_prompt_shows() -> None:
    answers = MODEL.predict([np.zeros((20, 20, 3), np.uint8)], top=2)
    assert repr(answers) == "<Answers, predicted when asked for: list(...) returns all of them>"
    assert repr(next(answers)) == "<Answer image 0: one 50.0%, two 50.0%>"
    assert repr(MODEL) == "<Classifier of 2 classes: one, two; 16 x 16 px>"
    assert repr(Answer("a\nb.png", None, None, (), "empty file")) == "<Answer a\\nb.png: empty file>"

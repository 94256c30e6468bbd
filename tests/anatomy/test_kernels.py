"""Kernels over images, against torch's convolution, and files of numbers that are right or wrong."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cnn_tl.anatomy.kernels import KERNELS, Kernel, Padding, convolve, find
from cnn_tl.cli.commands.convolve import Padding as PaddingOfTheCommand
from cnn_tl.core.errors import UsageError

TORCH_PADDING = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "none": None}


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (23, 17, 3), dtype=np.uint8))


def by_torch(pixels: np.ndarray, matrix: np.ndarray, padding: str, stride: int) -> np.ndarray:
    x_CHW = torch.tensor(np.atleast_3d(pixels), dtype=torch.float64).permute(2, 0, 1)[:, None]
    if padding != "none":
        rows, columns = (side - 1 for side in matrix.shape)
        around = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        x_CHW = F.pad(x_CHW, around, mode=TORCH_PADDING[padding])
    return F.conv2d(x_CHW, torch.tensor(matrix)[None, None], stride=stride)[:, 0].permute(1, 2, 0).squeeze(-1).numpy()


@pytest.mark.parametrize("padding", TORCH_PADDING)
@pytest.mark.parametrize("stride", [1, 2, 5])
@pytest.mark.parametrize("shape", [(3, 3), (1, 1), (2, 2), (1, 4), (5, 2), (7, 7)])
def test_sums_are_those_of_torch(image: Image.Image, padding: Padding, stride: int, shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(1).normal(size=shape)
    found = convolve(image, Kernel("mine", (matrix,)), padding, stride)
    expected = by_torch(found.before, matrix, padding, stride)
    assert found.after.shape[:2] == (found.rows.output, found.columns.output)
    np.testing.assert_allclose(found.after, expected, atol=1e-2)
    if padding != "none" and stride == 1:
        assert found.after.shape == found.before.shape


def test_sobel_is_the_length_of_both_gradients(image: Image.Image) -> None:
    both, x, y = (convolve(image, find(name)).after for name in ("sobel", "sobel-x", "sobel-y"))
    np.testing.assert_allclose(both, np.sqrt(x**2 + y**2), rtol=1e-5)


def test_the_kernel_is_not_turned() -> None:
    """A step from dark to bright gives sobel-x a positive answer."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 100
    after = convolve(Image.fromarray(pixels), find("sobel-x"), "replicate").after
    assert after.min() == 0
    assert after.max() == 400


@pytest.mark.parametrize("name", KERNELS)
def test_what_finds_edges_sees_grey(image: Image.Image, name: str) -> None:
    found = convolve(image, find(name))
    colours = name in ("blur", "sharpen", "emboss")
    assert found.before.shape == ((23, 17, 3) if colours else (23, 17))
    assert found.shown.dtype == np.uint8
    flat = convolve(Image.new("RGB", (9, 9), (50, 60, 70)), find(name), "replicate")
    if colours:
        np.testing.assert_allclose(flat.after, flat.before, atol=1e-3)
    else:
        assert np.abs(flat.after).max() == 0
        assert set(np.unique(flat.shown)) == {0 if name == "sobel" else 128}


def test_what_is_clipped_is_said() -> None:
    pixels = np.zeros((10, 10, 3), np.uint8)
    pixels[5, 5] = 200
    found = convolve(Image.fromarray(pixels), find("sharpen"))
    assert found.after.max() == 1000
    assert found.how == "unscaled sums; 5.0% lie outside 0..255 and are clipped"
    assert convolve(Image.fromarray(pixels), find("blur")).how == "unscaled sums"


@pytest.mark.parametrize(
    ("text", "matrix"),
    [
        ("-1 0 1\n-2 0 2\n-1 0 1\n", [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]),
        ("# mean\n1/9, 1/9;1/9\n\n", [[1 / 9, 1 / 9, 1 / 9]]),
        ("\ufeff1e-1\r\n.5\r\n", [[0.1], [0.5]]),
        ("[[0, 1],\n [1, 0]]", [[0, 1], [1, 0]]),
        ("- [0, -1]\n- [1, 0]\n", [[0, -1], [1, 0]]),
        ("[0, 1]\n[1, 0]\n", [[0, 1], [1, 0]]),
    ],
)
def test_files_of_numbers(tmp_path: Path, text: str, matrix: list[list[float]]) -> None:
    path = tmp_path / "kernel.txt"
    path.write_text(text, "utf-8")
    [found] = find(str(path)).matrices
    np.testing.assert_allclose(found, matrix)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no numbers"),
        (b"# nothing\n", "holds no numbers"),
        (b"1 2\n3\n", ":2: 1 numbers, but 2 in the row before"),
        (b"1 2\n3 x\n", ":2: 'x' is not a number"),
        (b"nan", ":1: 'nan' is not a number"),
        (b"1 inf", ":1: 'inf' is not a number"),
        (b"1/0", ":1: '1/0' is not a number"),
        (b"1e999", ":1: '1e999' is not a number"),
        (b"9" * 500, "is not a number"),
        (b"\xff\xfe\x00", "is not text"),
        (b"\x1b[31m", "is not a number"),
        (b"[[1, 2], [3]]", "1 numbers, but 2"),
        (b"[[1, 2],\n [3, x]]", ":2: not a JSON matrix"),
        (b"[[[1]]]", "is not a number"),
        (b"[" * 5000, "not a JSON matrix"),
        (b"[[1], 2]", "a list of rows"),
        (b"1 " * 64, "more than 63"),
        (b"1e99 -1e99", "the entries are too large"),
        (b"9e30", "the entries are too large"),
        (b"1\n" * 70_000, "more than 65,536 bytes"),
    ],
)
def test_files_that_are_no_kernel(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "kernel.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        find(str(path))
    assert said in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("text", ["1e30", "5e29 -5e29", "1e-42 -1e-42", "1e-99 0", "0 0"])
def test_the_largest_and_smallest_entries_give_numbers(tmp_path: Path, image: Image.Image, text: str) -> None:
    path = tmp_path / "kernel.txt"
    path.write_text(text, "utf-8")
    with np.errstate(all="raise", under="ignore"):
        found = convolve(image, find(str(path)))
    assert np.isfinite(found.after).all()


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ("0.01 -0.01", "0 is mid-grey, -2.5 black, 2.5 white"),
        ("1 -1", "0 is mid-grey, -255 black, 255 white"),
        ("0 0", "0 is mid-grey, and all sums are 0"),
    ],
)
def test_what_the_greys_mean(tmp_path: Path, text: str, how: str) -> None:
    path = tmp_path / "kernel.txt"
    path.write_text(text, "utf-8")
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 3:5] = 255
    found = convolve(Image.fromarray(pixels), find(str(path)), "replicate")
    assert found.how == how
    assert found.shown[0, 0] == 128


@pytest.mark.parametrize("name", ["sobl", "", "\0", "x" * 5000, "."])
def test_no_such_kernel(name: str) -> None:
    with pytest.raises(UsageError, match="--kernel"):
        find(name)


@pytest.mark.parametrize(
    ("shape", "padding", "said"), [((24, 3), "none", "covers 24"), ((3, 40), "reflect", "reflect needs 20")]
)
def test_images_that_are_too_small(image: Image.Image, shape: tuple[int, int], padding: Padding, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        convolve(image, Kernel("mine", (np.ones(shape),)), padding)


def test_the_command_has_the_same_paddings() -> None:
    assert get_args(Padding) == get_args(PaddingOfTheCommand)

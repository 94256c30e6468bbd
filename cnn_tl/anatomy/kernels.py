"""Kernels by hand: a small matrix slides over an image, and at each position the products are summed.

This is cross-correlation, which every deep-learning library calls convolution; in mathematics, convolution first
rotates the kernel by 180 degrees. A network learns the numbers of its kernels; here they are given.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cnn_tl.anatomy.arithmetic import Slide
from cnn_tl.core import text_encoding
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.core.formatting import percent

Padding = Literal["zeros", "reflect", "replicate", "none"]
Matrix = NDArray[np.float64]

_SOBEL_X: list[list[float]] = [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]]
_SOBEL_Y: list[list[float]] = [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]
KERNELS: dict[str, list[list[list[float]]]] = {
    "sobel": [_SOBEL_X, _SOBEL_Y],
    "sobel-x": [_SOBEL_X],
    "sobel-y": [_SOBEL_Y],
    "outline": [[[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]]],
    "blur": [[[1 / 16, 2 / 16, 1 / 16], [2 / 16, 4 / 16, 2 / 16], [1 / 16, 2 / 16, 1 / 16]]],
    "sharpen": [[[0, -1, 0], [-1, 5, -1], [0, -1, 0]]],
    "emboss": [[[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]],
}
"""Name -> its matrices. With two, the image shows the magnitude of both results: Sobel's gradient magnitude."""

_PAD_MODE: dict[str, Any] = {"zeros": "constant", "reflect": "reflect", "replicate": "edge"}
_NUMBER = re.compile(r"[-+]?(\d{1,15}\.?\d{0,15}|\.\d{1,15})(e[-+]?\d{1,2})?(/\d{1,9})?", re.IGNORECASE)
_MOST_BYTES = 65_536
_LONGEST_SIDE = 63
_LARGEST_SUM = 1e30
"""Limit on the sum of the absolute entries: 255 times that is still finite in float32."""


@dataclass(frozen=True)
class Kernel:
    """One matrix [U, V], or two of the same size."""

    name: str
    matrices: tuple[Matrix, ...]

    @property
    def finds_edges(self) -> bool:
        """Whether the entries sum to 0, so that a surface of one colour gives 0."""
        return all(abs(matrix.sum()) < 1e-9 * max(np.abs(matrix).max(), 1e-300) for matrix in self.matrices)


@dataclass(frozen=True)
class Convolved:
    """An image before and after.

    Attributes:
        before: uint8 [H, W, 3], or [H, W] for a kernel that finds edges: it is applied to brightness, not colours.
        after: the sums, float32 [H', W', 3] or [H', W'].
        rows, columns: how the window slid.
        shown: `after` as an image, uint8. how: what its grey levels mean, in one phrase.
    """

    before: NDArray[np.uint8]
    after: NDArray[np.float32]
    rows: Slide
    columns: Slide
    shown: NDArray[np.uint8]
    how: str


def find(kernel: str) -> Kernel:
    """Return a kernel by name, or read it from a file of numbers.

    Raises:
        UsageError: there is no such name or file, or one of its lines is not a row of numbers.
    """
    if kernel in KERNELS:
        return Kernel(kernel, tuple(np.array(matrix, float) for matrix in KERNELS[kernel]))
    path = Path(kernel)
    where = f"--kernel {printable(kernel if len(kernel) <= 100 else f'{kernel[:97]}...')}"
    try:
        if not path.is_file():
            raise UsageError(f"{where} is neither a file nor one of {', '.join(KERNELS)}")
        text = text_encoding.read_text(path, _MOST_BYTES)
    except UnicodeDecodeError:
        raise UsageError(f"{where} is not text; write one row of numbers per line, such as -1 0 1") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{where} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if len(text) > _MOST_BYTES:
        raise UsageError(f"{where} is too large for a kernel: it has more than {_MOST_BYTES:,} bytes")
    return Kernel(path.name, (_parse(text, where),))


def _parse(text: str, where: str) -> Matrix:
    """Parse rows of numbers separated by blanks, commas or semicolons, with or without the brackets of JSON or YAML."""
    rows: list[tuple[int, list[float]]] = []
    if re.match(r"\s*\[\s*\[", text):
        numbered = _rows_of_json(text, where)
    else:
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        numbered = [(n, re.sub(r"^-\s+\[|^\[|\]\s*,?$", "", line)) for n, line in enumerate(lines, 1) if line]
    for number, line in numbered:
        words = [word for word in re.split(r"[\s,;]+", line) if word]
        rows.append((number, [_number(word, f"{where}:{number}") for word in words]))
        if len(rows[-1][1]) != len(rows[0][1]):
            have, want = len(rows[-1][1]), len(rows[0][1])
            line = f"{where}:{number}"
            raise UsageError(f"{line}: {have} numbers, but {want} in the row before; rows must be equally long")
    if not rows or not rows[0][1]:
        raise UsageError(f"{where} holds no numbers; write one row per line, such as -1 0 1")
    if max(len(rows), len(rows[0][1])) > _LONGEST_SIDE:
        raise UsageError(f"{where}: {len(rows)} x {len(rows[0][1])} is more than {_LONGEST_SIDE} on a side")
    matrix = np.array([values for _, values in rows])
    if np.abs(matrix).sum() > _LARGEST_SUM:
        raise UsageError(f"{where}: the entries are too large; keep their sum below {_LARGEST_SUM:g}")
    return matrix


def _rows_of_json(text: str, where: str) -> list[tuple[int, str]]:
    """Return the rows of `[[0, 1], [1, 0]]`, with the lines on which they begin."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise UsageError(f"{where}:{line}: not a JSON matrix: {getattr(error, 'msg', 'too deep')}") from None
    if not all(isinstance(row, list) for row in value):
        raise UsageError(f"{where}: a JSON matrix is a list of rows, such as [[0, 1], [1, 0]]")
    begins = [text.count("\n", 0, found.start()) + 1 for found in re.finditer(r"\[(?!\s*\[)", text)]
    return [(begins[index] if index < len(begins) else 1, " ".join(map(str, row))) for index, row in enumerate(value)]


def _number(word: str, where: str) -> float:
    if not _NUMBER.fullmatch(word):
        _no_number(word, where)
    over, slash, under = word.partition("/")
    if slash and not int(under):
        _no_number(word, where)
    return float(over) / int(under or 1)


def _no_number(word: str, where: str) -> NoReturn:
    shown = printable(word if len(word) <= 40 else f"{word[:37]}...")
    raise UsageError(f"{where}: {shown!r} is not a number; write -1, 0.25, 1e-3 or 1/9")


def convolve(image: Image.Image, kernel: Kernel, padding: Padding = "zeros", stride: int = 1) -> Convolved:
    """Slide the kernel over each channel of an RGB image.

    With padding and stride 1 the size stays the same: u - 1 pixels are added; if that is odd, the larger half comes
    after the image.

    Raises:
        UsageError: the kernel is larger than the padded image, or the image is too small to be reflected.
    """
    before = np.asarray(image.convert("L") if kernel.finds_edges else image)
    sides = [_side(before.shape[axis], kernel.matrices[0].shape[axis], padding, stride, axis) for axis in (0, 1)]
    rows, columns = sides
    around = [(side.before, side.after) for side in sides] + [(0, 0)] * (before.ndim - 2)
    padded = before.astype(np.float32)
    if padding != "none":
        padded = np.pad(padded, around, mode=_PAD_MODE[padding])
    results = [_correlate(padded, matrix, (rows.output, columns.output), stride) for matrix in kernel.matrices]
    after = results[0] if len(results) == 1 else np.hypot(*results)
    shown, how = _as_image(after, kernel)
    return Convolved(before, after, rows, columns, shown, how)


def _correlate(
    pixels: NDArray[np.float32], matrix: NDArray[np.floating[Any]], size: tuple[int, int], stride: int
) -> NDArray[np.float32]:
    """Return the sums [H', W'] or [H', W', 3] of the products of pixels [H, W] or [H, W, 3] and a kernel [U, V]."""
    height, width = ((count - 1) * stride + 1 for count in size)
    total = np.zeros((*size, *pixels.shape[2:]))
    for (u, v), weight in np.ndenumerate(matrix):
        total += float(weight) * pixels[u : u + height : stride, v : v + width : stride]
    return total.astype(np.float32)


def _side(size: int, kernel: int, padding: Padding, stride: int, axis: int) -> Slide:
    more = 0 if padding == "none" else kernel - 1
    side = Slide(size, kernel, stride, more // 2, more - more // 2)
    name = ("height", "width")[axis]
    if not side.fits:
        raise UsageError(f"the kernel covers {kernel} pixels, but the image's {name} is {size}; use a smaller kernel")
    if padding == "reflect" and side.after >= size:
        raise UsageError(f"--padding reflect needs {side.after} pixels beside the edge, the image's {name} is {size}")
    return side


def _as_image(after: NDArray[np.float32], kernel: Kernel) -> tuple[NDArray[np.uint8], str]:
    """Map the sums to 0..255; return the image and, in words, how."""
    reach = float(np.abs(after).max())
    most = f"{reach:,.0f}" if reach >= 10 else f"{reach:.2g}"
    if len(kernel.matrices) > 1:
        return _bytes(after / (reach or 1) * 255), f"0 is black, {most} white: the magnitude of both results"
    if kernel.finds_edges and not reach:
        return _bytes(after + 128), "0 is mid-grey, and all sums are 0"
    if kernel.finds_edges:
        return _bytes(128 + after / reach * 127), f"0 is mid-grey, -{most} black, {most} white"
    outside = float(np.mean((after < 0) | (after > 255)))
    clipped = f"; {percent(max(outside, 0.001))} lie outside 0..255 and are clipped" if outside else ""
    return _bytes(after), f"unscaled sums{clipped}"


def _bytes(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)

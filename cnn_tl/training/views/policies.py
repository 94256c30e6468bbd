"""Augmentation policies on batches of views.

A policy draws one or several operations for each view. Those that are first of their view are performed together, then
the second ones, and so on: each time, views are brought into the order of their operations, so that those with the same
one lie side by side.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cnn_tl.data.views.policies import MATRICES, OPERATIONS, Operation
from cnn_tl.training.views import operations
from cnn_tl.training.views.finishing import brightness_tables
from cnn_tl.training.views.transfer import sent

Array = NDArray[Any]

_LEFT_ALONE = "identity"
_TRANSFORMED = (*MATRICES, "rotate")
_FIXED = ("brightness", "posterize", "solarize")
_LOOKED_UP = (*_FIXED, "contrast", "autocontrast", "equalize")
_ORDER = [_LEFT_ALONE, *_TRANSFORMED, "color", "sharpness", *_LOOKED_UP]
_RANKS = {name: rank for rank, name in enumerate(_ORDER)}
assert _RANKS.keys() == OPERATIONS.keys()


_GROUPS = [(_LEFT_ALONE,), _TRANSFORMED, ("color",), ("sharpness",), _FIXED, *((name,) for name in _LOOKED_UP[3:])]
"""Operations that are performed together, in the order of `_ORDER`."""


class Policies:
    """Performs drawn operations on views of one size.

    Args:
        colour: uint8 [3] on the device, for pixels from outside.
    """

    def __init__(self, width: int, height: int, colour: Tensor) -> None:
        self._width, self._height, self._colour = width, height, colour
        self._places = operations.Places(width, height, colour.device)

    def __call__(self, pixels_NHW3: Tensor, drawn: Sequence[Sequence[Operation]]) -> Tensor:
        """Apply each image's operations, as many for all, in order; return uint8 pixels [N, H, W, 3]."""
        turns = list(zip(*drawn, strict=True))
        if not turns:
            return pixels_NHW3
        orders = [sorted(range(len(turn)), key=lambda place: _RANKS[turn[place].name]) for turn in turns]
        sorted_turns = [[turn[image] for image in order] for turn, order in zip(turns, orders, strict=True)]
        arrays = [*_moves(orders), *(array for turn in sorted_turns for array in self._arguments(turn))]
        there = iter(sent(arrays, pixels_NHW3.device))
        *moves, back = (next(there) for _ in (*turns, None))
        for move, turn in zip(moves, sorted_turns, strict=True):
            counts = [sum(step.name in names for step in turn) for names in _GROUPS]
            pieces = pixels_NHW3.index_select(0, move).split_with_sizes(counts)
            pixels_NHW3 = torch.cat(list(self._turn(pieces, there)))
        return pixels_NHW3.index_select(0, back)

    def _arguments(self, turn: Sequence[Operation]) -> list[Array]:
        """Return the numbers that a turn's groups need, as `_turn` takes them."""
        named = {names: [step for step in turn if step.name in names] for names in _GROUPS}
        matrices = [_matrix(step, self._width, self._height) for step in named[_TRANSFORMED]]
        factors = [[1 + step.magnitude for step in named[name,]] for name in ("color", "sharpness", "contrast")]
        tables = [_table(step) for step in named[_FIXED]]
        return [
            np.array(matrices, np.float32).reshape(-1, 6).T,
            *(np.array(numbers, np.float32) for numbers in factors),
            np.array(tables, np.uint8).reshape(-1, 256, 1),
        ]

    def _turn(self, pieces: Sequence[Tensor], there: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each group after their operation."""
        same, moved, coloured, sharpened, fixed, contrasted, stretched, equalized = pieces
        matrices, saturations, sharpnesses, contrasts, tables = (next(there) for _ in range(5))
        levels = self._places.levels_256
        yield same
        if len(moved):
            yield operations.transformed(moved, matrices, self._places, self._colour)
        if len(coloured):
            yield operations.saturated(coloured, saturations)
        if len(sharpened):
            yield operations.sharpened(sharpened, sharpnesses)
        if len(fixed):
            yield operations.looked_up(fixed, tables)
        if len(contrasted):
            yield operations.looked_up(contrasted, operations.contrast_tables(contrasted, contrasts, levels))
        if len(stretched):
            yield operations.looked_up(stretched, operations.autocontrast_tables(stretched, levels))
        if len(equalized):
            yield operations.looked_up(equalized, operations.equalize_tables(equalized, levels))


def _moves(orders: Sequence[Sequence[int]]) -> Iterator[Array]:
    """Yield where in the order before each image of an order is, for each order and at last for the first one again."""
    before: Sequence[int] = range(len(orders[0]))
    for order in (*orders, before):
        places = {image: place for place, image in enumerate(before)}
        yield np.array([places[image] for image in order])
        before = order


def _matrix(operation: Operation, width: int, height: int) -> list[float]:
    """Return from where a pixel comes, a to f of `operations.transformed`."""
    if operation.name == "rotate":
        a, b, c, d, e, f = _rotation(operation.magnitude, width, height)
    else:
        a, b, c, d, e, f = MATRICES[operation.name](operation.magnitude)
    return [
        *(2 / width * factor for factor in (a, b, c - width / 2)),
        *(2 / height * factor for factor in (d, e, f - height / 2)),
    ]


def _rotation(degrees: float, width: int, height: int) -> tuple[float, ...]:
    """Return the matrix of a rotation around the middle of an image, as Pillow's `Image.rotate` has it."""
    angle = math.radians(degrees)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


@cache
def _table(operation: Operation) -> Array:
    """Return the table of an operation whose result depends on nothing but the value, uint8 [256]."""
    levels = np.arange(256)
    if operation.name == "brightness":
        table = brightness_tables(np.array([1 + operation.magnitude], np.float32))[0]
    elif operation.name == "posterize":
        table = levels & ~(2 ** (8 - round(operation.magnitude)) - 1)
    else:
        table = np.where(levels < math.ceil(operation.magnitude), levels, 255 - levels)
    return np.asarray(table, np.uint8)

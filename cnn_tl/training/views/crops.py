"""Random crops, resized and flipped: two matrix products for each image, columns first and then rows, as in Pillow.

The weights of the products are Pillow's antialiased filters (Resample.c, `precompute_coeffs`), computed on the device
from each image's box. Each view is computed from a window of its source that has the same size for all images, in
products of the same number of images, so that its bits do not depend on the images beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views.augment import Augmentation, View
from cnn_tl.data.views.image_source import source_side
from cnn_tl.training.views.filters import FILTERS
from cnn_tl.training.views.source_batch import SourceBatch
from cnn_tl.training.views.transfer import sent

CHUNK = 32
"""Images of a product. It is fixed, because it decides which kernel computes the product."""

WINDOW_BYTES = 192 * 2**20
"""Maximum size of the windows that are read at once, of at least a chunk: other operations need about eight times as
much memory. Their bits do not depend on how many images there are."""

_TILE = 8
"""Sizes of matrices are multiples of this: others are slower on tensor cores, and round differently on CPUs."""

_MIDDLE = 127.5
"""Subtracted from pixels. Half of them are then negative, which halves the errors of float16; and a product of whole
numbers less 127.5 with weights that sum to 1 is rounded to the nearest whole number by `floor`, less 128."""


class _Boxes(NamedTuple):
    """Where to take the samples of N views, along x and along y, in pixels relative to each window.

    Attributes:
        origins: int64 [2, N], the first pixel of the window in the image.
        numbers: float32 [4, 2, N]. The edge of the box from which samples are counted, less half a pixel; the step from
            one sample to the next, negative if the view is flipped; the distance from a sample down to the first pixel
            that counts; and the rate by which distances are multiplied before they enter the filter.
    """

    origins: Tensor
    numbers: Tensor


class _Windows(NamedTuple):
    """The pixels around the boxes.

    Attributes:
        pixels: uint8 [n, KH, 3, KW]; those outside the image have any value.
        room: int64 [2, n], the number of pixels from the origin of the box's window to the end of the image.
        shift: int64 [n, 1], how far left of that origin the window begins.
    """

    pixels: Tensor
    room: Tensor
    shift: Tensor


class Crops:
    """Crops, resizes and flips images of at most `source_side`^2 pixels.

    Args:
        precision: of the products, float32 or float16.

    Attributes:
        window: height and width of the window, in pixels.
    """

    def __init__(
        self, spec: Preprocessing, settings: Augmentation, device: torch.device, precision: torch.dtype
    ) -> None:
        self._device, self._precision = device, precision
        self._height, self._width = spec.height, spec.width
        self._filter = FILTERS[spec.interpolation]
        self._most = source_side(spec, settings) ** 2
        self._out = np.array([[spec.width], [spec.height]])
        longest = [
            math.sqrt(self._most * 4 / 3 * ratio) for ratio in (spec.width / spec.height, spec.height / spec.width)
        ]
        supports = [self._support(length / out) for length, out in zip(longest, self._out[:, 0].tolist(), strict=True)]
        taps = math.ceil(2 * max(supports))
        width, height = (_tiles(length + 2 * support + 2) for length, support in zip(longest, supports, strict=True))
        self.window = height, width
        self._at_once = CHUNK * max(WINDOW_BYTES // (3 * height * width * CHUNK), 1)
        self._line = _tiles(max(width, height) + taps + _TILE)
        self._positions = torch.arange(max(spec.width, spec.height), device=device) + 0.5
        self._taps = torch.arange(taps, dtype=torch.float32, device=device)
        self._rows = torch.arange(height, device=device)
        self._middle = torch.full((1,), _MIDDLE, dtype=precision, device=device)
        self._back = torch.full((1,), _MIDDLE + 1, dtype=torch.float32, device=device)

    def __call__(self, sources: SourceBatch, drawn: Sequence[View]) -> Tensor:
        """Return uint8 pixels [N, H, W, 3] of the views, before their policies and last steps.

        Where memory runs out, fewer are computed at once from then on.
        """
        count = len(drawn)
        views = torch.empty(count, self._height, self._width, 3, dtype=torch.uint8, device=self._device)
        missing = -count % CHUNK
        boxes = self._boxes([*drawn, *[drawn[-1]] * missing])
        geometry = torch.stack([sources.widths, sources.heights, sources.starts])
        if missing:
            geometry = torch.cat([geometry, geometry[:, -1:].expand(-1, missing)], 1)
        pixels, least = sources.pixels, self._most + self.window[1]
        if len(pixels) < least:  # else there is room for a whole window before or behind each image
            pixels = pad(pixels, (0, 0, 0, least - len(pixels)))
        start = 0
        while start < count:
            some = slice(start, start + self._at_once)
            try:
                found = self._some(pixels, geometry[:, some], _Boxes(boxes.origins[:, some], boxes.numbers[:, :, some]))
            except torch.OutOfMemoryError:
                if self._at_once == CHUNK:
                    raise
                self._at_once = CHUNK
                continue
            views[some].copy_(found[: count - start])
            start += len(found)
        return views

    def _support(self, scale: float) -> float:
        return self._filter.support * (max(scale, 1) if self._filter.antialiased else 1)

    def _boxes(self, drawn: Sequence[View]) -> _Boxes:
        corners = np.array([view.box for view in drawn], np.float32).T  # Pillow's boxes have this type, too
        low, high = corners[:2], corners[2:]
        steps = (high - low) / self._out
        rates = np.maximum(steps, 1) if self._filter.antialiased else np.ones_like(steps)
        supports = self._filter.support * rates
        origins = np.maximum(np.floor(low - supports), 0)
        flipped = np.array([view.flipped for view in drawn]) & [[True], [False]]
        starts = np.where(flipped, high, low) - origins - 0.5
        floats: NDArray[np.float32] = np.array(
            [starts, np.where(flipped, -steps, steps), supports - 1, 1 / rates], np.float32
        )
        assert (high - low + 2 * supports + 2 <= [[self.window[1]], [self.window[0]]]).all(), "sources are too large"
        return _Boxes(*sent([origins.astype(np.int64), floats], self._device))

    def _some(self, pixels_P3: Tensor, geometry_3n: Tensor, boxes: _Boxes) -> Tensor:
        """Return whole numbers [n, H, W, 3], float32; n is a multiple of `CHUNK`."""
        height, width = self.window
        windows = self._windows(pixels_P3, geometry_3n, boxes)
        x_nLJ = torch.sub(windows.pixels, self._middle).view(len(windows.pixels), -1, width)
        weights_2nOL = self._weights(windows, boxes)
        columns_nWJ, rows_nHI = weights_2nOL[0, :, : self._width, :width], weights_2nOL[1, :, : self._height, :height]
        y_nLW = _products(x_nLJ, columns_nWJ.transpose(1, 2)).floor_().clamp_(-128, 127)
        z_nHL = _products(rows_nHI, y_nLW.view(len(y_nLW), height, -1))
        whole_nH3W = torch.add(z_nHL.view(len(z_nHL), self._height, 3, self._width), self._back).clamp_(0, 255)
        return whole_nH3W.permute(0, 1, 3, 2)

    def _windows(self, pixels_P3: Tensor, geometry_3n: Tensor, boxes: _Boxes) -> _Windows:
        """Read the windows, row by row. A window is moved left where it would end beyond its row.

        A row that is narrower than the window begins with pixels of rows above, which have no weight. Where there are
        none, at the beginning of all pixels, it ends with pixels of other rows instead.
        """
        height, width = self.window
        widths_n1, _, starts_n1 = geometry_3n[:, :, None].unbind()
        left_n1, top_n1 = boxes.origins[:, :, None].unbind()
        room_2n = geometry_3n[:2] - boxes.origins
        room_x_n1, room_y_n1 = room_2n[:, :, None].unbind()
        first_n1 = (top_n1 * widths_n1).add_(left_n1).add_(starts_n1)
        shift_n1 = torch.minimum((width - room_x_n1).clamp_(min=0), first_n1)
        rows_nI = torch.minimum(self._rows, room_y_n1 - 1).mul_(widths_n1).add_(first_n1 - shift_n1)
        lines_P3J = pixels_P3.unfold(0, width, 1)
        found_nI3J = torch.empty(len(rows_nI), height, 3, width, dtype=torch.uint8, device=self._device)
        torch.ops.aten.index.Tensor_out(lines_P3J, [rows_nI], out=found_nI3J)  # else it would choose another layout
        return _Windows(found_nI3J, room_2n, shift_n1)

    def _weights(self, windows: _Windows, boxes: _Boxes) -> Tensor:
        """Return the weights [2, n, samples, pixels] of columns and rows, mostly 0; sums over pixels are 1."""
        starts, steps, reaches, rates = boxes.numbers[..., None].unbind()
        centres = (steps * self._positions).add_(starts)  # less half a pixel
        firsts = (centres - reaches).floor_().clamp_(min=0)
        places = firsts[..., None] + self._taps
        distances = (places - centres[..., None]).mul_(rates[..., None])
        weights = self._filter.weight(distances).mul_(places < windows.room[..., None, None])
        weights = weights.div_(weights.sum(-1, keepdim=True)).to(self._precision)
        places[0].add_(windows.shift[..., None])
        zeros = torch.zeros(*centres.shape, self._line, dtype=self._precision, device=self._device)
        return zeros.scatter_(-1, places.long(), weights)


def _products(a_nIK: Tensor, b_nKJ: Tensor) -> Tensor:
    """Return the matrix products [n, I, J], `CHUNK` at a time."""
    products = a_nIK.new_empty(len(a_nIK), a_nIK.shape[1], b_nKJ.shape[2])
    for start in range(0, len(a_nIK), CHUNK):
        some = slice(start, start + CHUNK)
        torch.bmm(a_nIK[some], b_nKJ[some], out=products[some])
    return products


def _tiles(length: float) -> int:
    """Return the length in pixels, rounded up to whole tiles."""
    return math.ceil(length / _TILE) * _TILE

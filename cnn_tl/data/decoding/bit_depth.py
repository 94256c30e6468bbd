"""Scales pixels deeper than 8 bits to 0..255, by deciding which value is black and which is white.

The range is the one that the file declares, else the usual one that contains all values; only if there is none, the
values are stretched from the smallest to the largest. Values that are no measurements do not count: NaN, infinities,
floats beyond 1e30, which stand for infinities, and the file's declared no-data value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_INFINITE = 1e30
_AS_ONE = 2.0
"""Floats whose maximum is at most this are taken to be in 0..1, possibly slightly above, rather than in 0..255."""


def to_8_bits(
    pixels: NDArray[np.generic],
    *,
    bits: int | None = None,
    white_is_zero: bool = False,
    no_data: float | None = None,
) -> NDArray[np.uint8]:
    """Scale integers or floats, an array of any shape, to 0..255; NaN and no-data values become black.

    Args:
        bits: how many bits of an integer the file declares as used; None: all bits of its type.
        white_is_zero: the smallest value is white.
        no_data: the value of pixels that were not measured.
    """
    values: NDArray[Any] = pixels.astype(np.float64 if pixels.dtype.itemsize > 4 else np.float32)
    unknown = np.isnan(values)
    if no_data is not None:
        with np.errstate(over="ignore"):  # a value beyond this type's range is no pixel's value, or infinite
            unknown |= values == values.dtype.type(no_data)
    measured = values[~unknown & (np.abs(values) < _INFINITE)]
    low, high = (float(measured.min()), float(measured.max())) if measured.size else (0.0, 0.0)
    low, high = _floats(low, high) if pixels.dtype.kind == "f" else _integers(low, high, pixels.dtype, bits)
    with np.errstate(over="ignore", invalid="ignore"):
        values -= low
        values *= 255 / max(high - low, 1e-30)
        if white_is_zero:
            np.subtract(255, values, out=values)
        np.clip(values, 0, 255, out=values)
    values[unknown] = 0
    eight_bits: NDArray[np.uint8] = np.rint(values).astype(np.uint8)
    return eight_bits


def _floats(low: float, high: float) -> tuple[float, float]:
    """Return the values of black and white: 0..1, 0..255, or the range of the values."""
    if low < 0 or high > 255:
        return low, high
    return (0.0, max(high, 1.0)) if high <= _AS_ONE else (0.0, 255.0)


def _integers(low: float, high: float, dtype: np.dtype[np.generic], bits: int | None) -> tuple[float, float]:
    """Return the values of black and white: the declared range, that of the type or 16 bits, or that of the values."""
    most = 2.0 ** (8 * dtype.itemsize - (dtype.kind == "i")) - 1
    if low < 0:
        return low, high
    if bits is not None and high < 2.0**bits:
        return 0.0, 2.0**bits - 1
    if most < 2.0**16 or high > most / 2:
        return 0.0, most
    return (0.0, 2.0**16 - 1) if high < 2.0**16 else (low, high)

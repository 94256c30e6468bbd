from __future__ import annotations

import numpy as np
import pytest

from cnn_tl.data.decoding.bit_depth import to_8_bits

RAMP = np.arange(256)


@pytest.mark.parametrize(
    ("pixels", "options"),
    [
        (RAMP.astype(np.uint16) * 257, {}),
        ((RAMP * 4095 / 255).round().astype(np.uint16), {"bits": 12}),
        ((RAMP * 16383 / 255).round().astype(np.uint16), {"bits": 14}),
        ((RAMP * 32767 / 255).round().astype(np.int16), {}),
        ((RAMP * 257 - 32768).astype(np.int16), {}),
        ((RAMP - 128).astype(np.int8), {}),
        (RAMP.astype(np.uint32) * 16843009, {}),
        (RAMP.astype(np.uint32) * 257, {}),
        (RAMP.astype(np.int32) * 5_000_000 - 7, {}),
        (RAMP.astype(np.uint64) * 72340172838076673, {}),
        (RAMP / np.float32(255), {}),
        ((RAMP / 255).astype(np.float16), {}),
        (RAMP / 255 * 1.05, {}),
        (RAMP.astype(np.float32), {}),
        (RAMP * 12.5 - 300, {}),
    ],
)
def test_black_and_white_are_the_ends_of_the_range(pixels: np.ndarray, options: dict[str, int]) -> None:
    assert np.abs(to_8_bits(pixels, **options).astype(int) - RAMP).max() <= 1
    inverted = to_8_bits(pixels, white_is_zero=True, **options)
    assert np.abs(inverted.astype(int) - RAMP[::-1]).max() <= 1


def test_more_bits_than_are_declared_are_all_used() -> None:
    assert to_8_bits(np.array([0, 5000, 65535], np.uint16), bits=12).tolist() == [0, 19, 255]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3.4e38, np.finfo(np.float32).min, 1e31])
def test_what_is_no_measurement_decides_no_range(value: float) -> None:
    pixels = np.append(RAMP / 255, value).astype(np.float32)
    read = to_8_bits(pixels)
    assert read[:-1].tolist() == RAMP.tolist()
    assert read[-1] == (255 if value > 0 else 0)


@pytest.mark.parametrize(
    ("pixels", "no_data"),
    [
        (RAMP.astype(np.float32), -9999),
        (RAMP.astype(np.float32), -3.4028234663852886e38),
        ((RAMP / 255).astype(np.float32), 99),
        ((RAMP * 128 + 127).astype(np.int16), -32768),
    ],
)
def test_no_data_decides_no_range_and_is_black(pixels: np.ndarray, no_data: float) -> None:
    read = to_8_bits(np.append(pixels, pixels.dtype.type(no_data)), no_data=no_data)
    assert np.abs(read[:-1].astype(int) - RAMP).max() <= 1
    assert read[-1] == 0
    assert to_8_bits(np.append(pixels, pixels.dtype.type(no_data)), no_data=no_data, white_is_zero=True)[-1] == 0


def test_nothing_but_no_data_is_black() -> None:
    assert to_8_bits(np.full((2, 2), np.nan, np.float32)).tolist() == [[0, 0], [0, 0]]
    assert to_8_bits(np.full(3, 7, np.uint16), no_data=7).tolist() == [0, 0, 0]


def test_no_data_that_the_pixels_cannot_hold_is_none_of_them() -> None:
    assert to_8_bits(np.array([0, 1], np.float32), no_data=1e40).tolist() == [0, 255]

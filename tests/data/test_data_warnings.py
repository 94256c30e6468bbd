from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_tl.data.data_warnings import BlankImages

PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
DOT = np.zeros((60, 80, 3), np.uint8)
DOT[33, 41] = 200


def seen(file: Path, pixels: np.ndarray) -> list[dict[str, str]]:
    blank = BlankImages(), BlankImages()
    blank[0].check_pixels("name", file, pixels)
    blank[1].check_image("name", file, Image.fromarray(pixels))
    return [one.found for one in blank]


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (PHOTOGRAPH, None),
        (DOT, None),
        (PHOTOGRAPH // 15, None),
        (PHOTOGRAPH // 17 + 40, "narrow"),
        (DOT // 200 * 16, "narrow"),  # 12 bits of 16
        (DOT // 200 * 17, None),
        (PHOTOGRAPH // 255 + 254, "narrow"),
        (np.full((60, 80, 3), 70, np.uint8), "constant"),
        (np.full((3, 5, 3), 0, np.uint8), "constant"),
    ],
)
def test_images_that_show_nothing(pixels: np.ndarray, kind: str | None, tmp_path: Path) -> None:
    expected = {} if kind is None else {"name": kind}
    assert seen(tmp_path / "not needed", pixels) == [expected, expected]


@pytest.mark.parametrize(
    ("mode", "colour", "kind"),
    [
        ("RGBA", (9, 8, 7, 0), "transparent"),
        ("LA", (9, 0), "transparent"),
        ("RGBA", (255, 255, 255, 255), "constant"),
        ("RGB", (255, 255, 255), "constant"),
    ],
)
def test_white_is_told_from_transparent(mode: str, colour: tuple[int, ...], kind: str, tmp_path: Path) -> None:
    file = tmp_path / "white.png"
    Image.new(mode, (20, 20), colour).save(file)
    white = np.full((20, 20, 3), 255, np.uint8)
    assert seen(file, white) == [{"name": kind}] * 2
    file.unlink()
    assert seen(file, white) == [{"name": "constant"}] * 2


def test_the_remarks_name_some_in_natural_order(tmp_path: Path) -> None:
    blank = BlankImages()
    for number in reversed(range(1, 12)):
        blank.check_pixels(f"{number}.png", tmp_path, np.full((9, 9, 3), number, np.uint8))
    blank.check_pixels("dark.tif", tmp_path, PHOTOGRAPH // 20)
    assert blank.remarks() == [
        "images of one colour all over: 11 (1.png, 2.png, 3.png, 4.png, 5.png and 6 more)",
        "images whose values lie within 1/16 of the range, so that they show almost nothing: 1 (dark.tif)",
    ]

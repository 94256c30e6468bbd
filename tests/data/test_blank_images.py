from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_tl.data.blank_images import kind_of_image, kind_of_pixels

PHOTOGRAPH = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
DOT = np.zeros((60, 80, 3), np.uint8)
DOT[33, 41] = 200


def seen(file: Path, pixels: np.ndarray) -> list[str | None]:
    return [kind_of_pixels(pixels, file), kind_of_image(Image.fromarray(pixels), file)]


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
    assert seen(tmp_path / "not needed", pixels) == [kind, kind]


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
    assert seen(file, white) == [kind, kind]
    file.unlink()
    assert seen(file, white) == ["constant", "constant"]

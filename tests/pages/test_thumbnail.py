"""Thumbnails are small, upright and readable."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_tl.core.errors import BadImageError
from cnn_tl.pages import thumbnail as module
from cnn_tl.pages.thumbnail import thumbnail, thumbnail_of_file


def test_a_photograph_becomes_128_pixels_wide() -> None:
    noise = Image.effect_noise((640, 480), 60).convert("RGB")
    small = Image.open(io.BytesIO(thumbnail(noise)))
    assert (small.format, small.size) == ("WEBP", (128, 96))
    assert Image.open(io.BytesIO(thumbnail(noise, 64))).size == (64, 48)


def test_a_small_image_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(thumbnail(Image.fromarray(pixels))))), pixels)


def test_jpeg_without_webp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_has_webp", lambda: False)
    assert thumbnail(Image.new("L", (200, 100)))[:2] == b"\xff\xd8"


def test_a_turned_jpeg_is_upright_and_a_panorama_sharp_enough(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (2000, 500)).save(tmp_path / "turned.jpg", exif=exif)
    assert Image.open(io.BytesIO(thumbnail_of_file(tmp_path / "turned.jpg"))).size == (32, 128)


def test_a_damaged_file_is_a_bad_image(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no")
    with pytest.raises(BadImageError, match=r"broken\.jpg"):
        thumbnail_of_file(tmp_path / "broken.jpg")

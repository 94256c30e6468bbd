from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_tl.plots.kernels import plot_kernels

GREEN = np.full((30, 40, 3), (0, 200, 80), np.uint8)
RED = np.full((15, 20, 3), (220, 20, 30), np.uint8)


def places(path: Path, colour: np.ndarray) -> tuple[int, int]:
    """Return the first and the last column of a colour."""
    with Image.open(path) as image:
        seen = np.flatnonzero((np.asarray(image.convert("RGB")) == colour).all(-1).any(0))
    return int(seen[0]), int(seen[-1])


@pytest.mark.parametrize("shape", [(3, 3), (1, 1), (2, 5), (31, 31)])
def test_before_stands_left_of_after(tmp_path: Path, shape: tuple[int, int]) -> None:
    plot_kernels(tmp_path / "k.png", GREEN, RED, [np.ones(shape)] * 2, "mine", ["a line"])
    assert places(tmp_path / "k.png", GREEN[0, 0])[1] < places(tmp_path / "k.png", RED[0, 0])[0]


@pytest.mark.parametrize("name", ["$x_{$", "a$b$c", "\x1b[31m", "\udcff", "k" * 200])
def test_a_kernel_may_be_called_anything(tmp_path: Path, name: str) -> None:
    plot_kernels(tmp_path / "k.png", GREEN[..., 0], RED[..., 0], [np.zeros((3, 3))], name, ["a line"])
    assert (tmp_path / "k.png").is_file()


@pytest.mark.parametrize("size", [(4, 3000), (3000, 4)])
def test_long_images_do_not_make_endless_figures(tmp_path: Path, size: tuple[int, int]) -> None:
    long = np.zeros(size, np.uint8)
    plot_kernels(tmp_path / "k.png", long, long, [np.eye(3)], "eye", [])
    with Image.open(tmp_path / "k.png") as image:
        assert max(image.size) < 5000

"""The plot of errors by the share answered is drawn whatever the answers are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_tl.abstention.risk import risk_coverage
from cnn_tl.plots.risk_coverage import plot_risk_coverage


@pytest.mark.parametrize("images", [1, 2, 500])
def test_it_is_drawn(tmp_path: Path, images: int) -> None:
    chance = np.random.default_rng(0)
    curve = risk_coverage(chance.random(images), chance.random(images) < 0.8)
    plot_risk_coverage(tmp_path / "risk.png", curve)
    with Image.open(tmp_path / "risk.png") as image:
        assert image.width == 1600
        plain = np.asarray(image.convert("RGB"), np.int64)
    plot_risk_coverage(tmp_path / "promised.png", curve, 0.05, (0.5, 0.04))
    with Image.open(tmp_path / "promised.png") as image:
        marked = np.asarray(image.convert("RGB"), np.int64)
    orange = np.abs(marked - [0xD9, 0x73, 0x0D]).sum(2) < 12
    assert orange.sum() > 100  # the point, in the chart and in the legend
    assert not (np.abs(plain - [0xD9, 0x73, 0x0D]).sum(2) < 12).any()


def test_without_mistakes_there_is_an_axis_all_the_same(tmp_path: Path) -> None:
    plot_risk_coverage(tmp_path / "risk.png", risk_coverage(np.linspace(0, 1, 9), np.ones(9, bool)))
    assert (tmp_path / "risk.png").stat().st_size > 5000

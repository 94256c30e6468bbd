from __future__ import annotations

import pytest
from scipy.stats import binomtest

from cnn_tl.statistics import wilson_interval


@pytest.mark.parametrize(("right", "total"), [(0, 1), (1, 1), (71, 75), (75, 75), (0, 75), (500, 1000)])
def test_agrees_with_scipy(right: int, total: int) -> None:
    expected = binomtest(right, total).proportion_ci(0.95, method="wilson")
    assert wilson_interval(right, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("right", "total"), [(0, 0), (2, 1), (-1, 3)])
def test_refuses_nonsense(right: int, total: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(right, total)

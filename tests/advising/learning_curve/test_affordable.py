"""Eight sizes and ten draws of ordinary sets; less of large ones, so that the time is bounded."""

from __future__ import annotations

import pytest

from cnn_tl.advising.learning_curve import affordable
from cnn_tl.advising.learning_curve.affordable import MAX_SECONDS, extent_of


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(affordable, "usable", lambda: 2)


@pytest.mark.parametrize(("images", "training", "classes"), [(300, 225, 3), (280, 200, 2), (4_317, 3_453, 5)])
def test_ordinary_sets_are_measured_in_full(images: int, training: int, classes: int) -> None:
    extent = extent_of(images, training, 1_280, classes)
    assert (extent.draws, len(extent.sizes), extent.sizes[-1]) == (10, 8, training)


@pytest.mark.parametrize("classes", [10, 100, 1_000])
def test_a_hundred_thousand_images_are_capped(classes: int) -> None:
    extent = extent_of(100_000, 80_000, 1_280, classes)
    assert 2 * classes <= extent.sizes[-1] < 80_000
    assert extent.draws == 5
    assert affordable._seconds(extent, 1_280, classes) <= 2 * MAX_SECONDS or extent.sizes[-1] <= 4 * classes


def test_where_little_is_held_out_the_curve_ends_before_all() -> None:
    assert extent_of(100, 98, 64, 2).sizes[-1] == 90

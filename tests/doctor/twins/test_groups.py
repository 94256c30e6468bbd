"""Groups, and views from which twins are made."""

from __future__ import annotations

import numpy as np
import pytest
from doctor.twins.pictures import picture
from PIL import Image

from cnn_tl.doctor.twins.groups import equal_bytes, groups_of
from cnn_tl.doctor.twins.views import CHANGES, LARGEST, changes_of, twin_of


def test_groups_are_connected_and_numbered_by_their_first_image() -> None:
    pairs = np.array([[5, 6], [1, 4], [4, 7], [2, 7]])
    assert groups_of(9, pairs).tolist() == [-1, 0, 0, -1, 0, 1, 1, 0, -1]
    assert groups_of(3, np.empty((0, 2), np.int64)).tolist() == [-1, -1, -1]


def test_a_long_chain_is_one_group() -> None:
    chain = np.stack([np.arange(4999), np.arange(1, 5000)], 1)[::-1]
    assert (groups_of(5000, chain) == 0).all()


def test_each_later_copy_is_paired_with_the_first() -> None:
    assert equal_bytes(["x", "y", "x", "x", "y"]).tolist() == [[0, 2], [0, 3], [1, 4]]
    assert equal_bytes([]).shape == (0, 2)


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (33, 20), (1500, 40)])
def test_views_of_any_size(size: tuple[int, int]) -> None:
    for number in range(40):
        view = twin_of(Image.new("RGB", size, (200, 90, 30)), 0, number)
        assert view.mode == "RGB"
        assert 1 <= min(view.size) <= max(view.size) <= 1.31 * LARGEST


def test_views_are_a_function_of_seed_and_number_and_have_every_change() -> None:
    image = picture(0, 80)
    assert twin_of(image, 1, 2).tobytes() == twin_of(image, 1, 2).tobytes()
    assert twin_of(image, 1, 2).tobytes() != twin_of(image, 2, 2).tobytes()
    drawn = [changes_of(0, number) for number in range(200)]
    assert set().union(*drawn) == set(CHANGES)
    assert {len(changes) for changes in drawn} == {1, 2, 3, 4}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_changes_pixels(name: str) -> None:
    image = picture(1, 80)
    changed = CHANGES[name][0](image, np.random.default_rng(5))
    assert changed.size != image.size or changed.tobytes() != image.tobytes()
    assert image.tobytes() == picture(1, 80).tobytes()  # the original stays as it is

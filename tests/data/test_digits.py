from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from cnn_tl.data.digits import write_digits


def test_they_are_the_digits_of_scikit_learn(tmp_path: Path) -> None:
    theirs = load_digits()
    assert write_digits(tmp_path) == len(theirs.target)
    for number in range(0, len(theirs.target), 50):
        written = Image.open(tmp_path / str(theirs.target[number]) / f"{number:04d}.png")
        np.testing.assert_array_equal(np.asarray(written), np.rint(theirs.images[number] * (255 / 16)))
    assert len([*tmp_path.glob("?/*.png")]) == len(theirs.target)

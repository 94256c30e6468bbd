"""A small real data set that every installation has: scikit-learn's handwritten digits, as class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cnn_tl.core import files


def write_digits(folder: Path) -> int:
    """Write the 1,797 digits of 8 x 8 pixels as `folder/CLASS/NUMBER.png`; return their number.

    They are the test split of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998).


    Raises:
        ResourceError: the folder cannot be written.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    with files.disk_errors(folder):
        for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            path = folder / str(label) / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8)).save(path)
    return len(digits.target)

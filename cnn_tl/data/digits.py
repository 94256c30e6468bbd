"""A small real data set that every installation has: handwritten digits, as class folders.

`digits.npz` holds the 1,797 images of the test split of "Optical Recognition of Handwritten Digits" (Alpaydin and
Kaynak 1998, https://doi.org/10.24432/C50P49, CC BY 4.0), in the order of scikit-learn's `load_digits`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from cnn_tl.core import files

_FILE = Path(__file__).with_name("digits.npz")
_WHITE = 16


def write_digits(folder: Path) -> int:
    """Write the digits of 8 x 8 pixels as `folder/CLASS/NUMBER.png`; return their number.

    Raises:
        ResourceError: the folder cannot be written.
    """
    with np.load(_FILE, allow_pickle=False) as digits:
        images_NHW, labels_N = digits["images"], digits["labels"]
    with files.disk_errors(folder):
        for number, (image, label) in enumerate(zip(images_NHW, labels_N, strict=True)):
            path = folder / str(label) / f"{number:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.rint(image * (255 / _WHITE)).astype(np.uint8)).save(path)
    return len(labels_N)

"""Generated images and a collection of them, with features that a test can compute."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from PIL import Image

from cnn_tl.data.manifest import ImageRecord
from cnn_tl.doctor.collection import SIDE, Collection, Features, Thumbnails
from cnn_tl.doctor.headers import read_header


def picture(number: int, side: int = 96, channels: int = 3) -> Image.Image:
    """Return random blobs of random colours, the same for one number, unlike those of another."""
    rng = np.random.default_rng(number)
    x = np.linspace(0, 1, side, dtype=np.float32)
    pixels = np.full((side, side, channels), 110, np.float32)
    for _ in range(24):
        centre_y, centre_x, radius = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.03, 0.2)
        blob = np.exp(-((x[:, None] - centre_y) ** 2 + (x[None] - centre_x) ** 2) / radius**2)
        pixels += blob[..., None] * rng.uniform(-110, 110, channels)
    pixels = np.clip(pixels, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels if channels == 3 else pixels[..., 0]).convert("RGB")


def view_of(images: Sequence[Image.Image]) -> tuple[Features, Thumbnails]:
    """Return as features how much of each colour there is in a few places, blurred: alike for twins, even mirrored."""
    thumbnails = np.array([image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC) for image in images])
    small = np.array([image.convert("RGB").resize((6, 6), Image.Resampling.BOX) for image in images], np.float32)
    mirrored = small[:, :, ::-1]
    features = np.concatenate([small + mirrored, np.abs(small - mirrored)], 1).reshape(len(images), -1)
    return features.astype(np.float32), thumbnails.astype(np.uint8)


def collection_of(root: Path, images: dict[str, Image.Image | bytes]) -> Collection:
    """Write images below a folder, by their paths, and return their collection."""
    for path, image in images.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(image, bytes):
            (root / path).write_bytes(image)
        else:
            image.save(root / path)
    files = [root / path for path in images]
    features, thumbnails = view_of([Image.open(file) for file in files])
    classes = tuple(sorted({Path(path).parent.name for path in images}))
    records = [
        ImageRecord(
            path,
            classes.index(Path(path).parent.name),
            "val" if path.startswith("val") else "train",
            file.stat().st_size,
            0,
            hashlib.sha256(file.read_bytes()).hexdigest(),
        )
        for path, file in zip(images, files, strict=True)
    ]
    known = {
        "root": root,
        "classes": classes,
        "images": tuple(records),
        "features": features,
        "thumbnails": thumbnails,
        "headers": tuple(read_header(file) for file in files),
        "view_of": view_of,
    }
    rest = {
        field.name: np.zeros((len(files), 14), np.float32) for field in fields(Collection) if field.name not in known
    }
    return Collection(**known, **rest)  # type: ignore[arg-type]

"""Twins made of the user's own images, as a camera, a web site or an editor would make them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from cnn_tl.core.seeds import seed_of

LARGEST = 512
"""Side to which larger images are reduced first: the features need no more, and drawing stays fast."""


def twin_of(image: Image.Image, seed: int, number: int) -> Image.Image:
    """Return a changed copy: one to four changes, drawn by (seed, number) among those below.

    At most 512 pixels a side. Images of one pixel a side are possible.
    """
    image = image.convert("RGB")
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BICUBIC)
    rng = np.random.default_rng(seed_of(seed, "twin", number))
    for name in changes_of(seed, number):
        image = CHANGES[name][0](image, rng)
    return image


def changes_of(seed: int, number: int) -> tuple[str, ...]:
    """Return the names of the changes that `twin_of` makes, in the order of CHANGES."""
    rng = np.random.default_rng(seed_of(seed, "changes", number))
    odds = np.array([often for _, often in CHANGES.values()])
    chosen = rng.choice(len(odds), size=int(rng.integers(1, 5)), replace=False, p=odds / odds.sum())
    return tuple(name for index, name in enumerate(CHANGES) if index in chosen)


def _turn(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Rotate by up to 7 degrees and cut the corners off."""
    angle = float(rng.uniform(-7, 7))
    width, height = image.size
    turned = image.rotate(angle, Image.Resampling.BICUBIC)
    inset = abs(np.sin(np.radians(angle))) / 2
    return turned.crop(_box(inset * height, inset * width, width - inset * height, height - inset * width))


def _box(left: float, upper: float, right: float, lower: float) -> tuple[int, int, int, int]:
    left, upper = round(left), round(upper)
    return left, upper, max(left + 1, round(right)), max(upper + 1, round(lower))


def _crop(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Keep 75 to 97% of each side, a little distorted."""
    width, height = image.size
    part = rng.uniform(0.75, 0.97)
    new_w, new_h = np.minimum(1, part * rng.uniform(0.95, 1.05, 2)) * image.size
    left, upper = rng.uniform(0, width - new_w), rng.uniform(0, height - new_h)
    return image.crop(_box(left, upper, left + new_w, upper + new_h))


def _shift(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Move by up to 15% each way; what comes into view continues the border."""
    shift_y, shift_x = (round(float(rng.uniform(-0.15, 0.15)) * side) for side in (image.height, image.width))
    pixels = np.asarray(image)
    rows = np.clip(np.arange(image.height) + shift_y, 0, image.height - 1)
    columns = np.clip(np.arange(image.width) + shift_x, 0, image.width - 1)
    return Image.fromarray(pixels[rows][:, columns])


def _scale(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    factor = float(np.exp(rng.uniform(np.log(0.4), np.log(1.3))))
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _mirror(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _light(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    image = ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.6, 1.5)))
    return ImageEnhance.Contrast(image).enhance(float(rng.uniform(0.6, 1.5)))


def _colour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Change saturation, and the gain of each channel by up to 20%."""
    image = ImageEnhance.Color(image).enhance(float(rng.uniform(0.0, 1.6)))
    pixels = np.asarray(image, np.float32) * rng.uniform(0.8, 1.2, 3).astype(np.float32)
    return Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))


def _recompress(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=int(rng.integers(20, 80)))
    return Image.open(io.BytesIO(stream.getvalue())).convert("RGB")


def _blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.005, 0.02)) * max(image.size)))


def _border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Put a frame of one grey around it, on top of its margin."""
    image = image.copy()
    draw, width = ImageDraw.Draw(image), max(1, round(float(rng.uniform(0.02, 0.08)) * max(image.size)))
    draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=(int(rng.integers(256)),) * 3, width=width)
    return image


def _caption(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Write over an eighth of its height."""
    image = image.copy()
    top = float(rng.uniform(0, 0.85)) * image.height
    size = max(4.0, image.height / 10)
    grey = (int(rng.integers(256)),) * 3
    ImageDraw.Draw(image).text((0.1 * image.width, top), "Photo 2026", fill=grey, font_size=size)
    return image


CHANGES = {
    "turn": (_turn, 1.0),
    "crop": (_crop, 3.0),
    "shift": (_shift, 2.0),
    "mirror": (_mirror, 2.0),
    "light": (_light, 2.0),
    "colour": (_colour, 1.5),
    "border": (_border, 0.5),
    "caption": (_caption, 0.5),
    "blur": (_blur, 1.0),
    "scale": (_scale, 2.0),
    "recompress": (_recompress, 2.0),
}
"""Name -> the change, and how often it is drawn. Applied in this order: geometry, light, what a web site adds."""

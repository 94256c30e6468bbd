from __future__ import annotations

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from cnn_tl.api.observers import quiet_dependencies
from cnn_tl.core.errors import BadImageError
from cnn_tl.data.decoding.image import ImageFacts, ImageLimits, probe, read_image

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]


def gradient(width: int = 40, height: int = 30) -> Image.Image:
    """An image without any symmetry: dark at the top left, red to the right, green downwards."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x * 255 // width, y * 255 // height, 0 * x + 20], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checksum = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + checksum + b"\0\0\0\0IDAT"


def difference(image: Image.Image, expected: Image.Image) -> float:
    assert (image.mode, image.size) == ("RGB", expected.size)
    return float(np.abs(np.asarray(image, np.int16) - np.asarray(expected, np.int16)).mean())


@pytest.mark.parametrize("kind", FORMATS)
def test_every_accepted_format_is_read(kind: str, tmp_path: Path) -> None:
    original = gradient()
    data = encoded(original, kind)
    path = tmp_path / "image"
    path.write_bytes(data)
    assert probe(path) == ImageFacts(kind, 40, 30, animated=False)
    assert difference(read_image(path), original) < 8
    assert difference(read_image(data), original) < 8


def test_content_decides_and_not_the_extension(tmp_path: Path) -> None:
    path = tmp_path / "really-a-png.jpg"
    path.write_bytes(encoded(gradient(), "PNG"))
    assert probe(path).format == "PNG"
    assert difference(read_image(path), gradient()) == 0


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_half_a_file_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    data = encoded(gradient(200, 150), kind)
    path = tmp_path / "half.jpg"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BadImageError, match=r"half\.jpg: (truncated|damaged)") as caught:
        read_image(path)
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("colour", "mode", "expected"),
    [
        (200, "L", (200, 200, 200)),
        (1, "1", (255, 255, 255)),
        ((100, 255), "LA", (100, 100, 100)),
        ((100, 0), "LA", (255, 255, 255)),
        ((10, 20, 30, 255), "RGBA", (10, 20, 30)),
        ((10, 20, 30, 0), "RGBA", (255, 255, 255)),
        ((0, 0, 0, 51), "RGBA", (204, 204, 204)),
    ],
)
def test_grey_and_transparent_images_become_rgb_on_white(
    colour: int | tuple[int, ...], mode: str, expected: tuple[int, int, int]
) -> None:
    image = read_image(encoded(Image.new(mode, (8, 8), colour), "PNG"))
    assert image.mode == "RGB"
    assert image.getpixel((3, 3)) == expected


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palette_with_a_transparent_colour(kind: str) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 4, 8))
    read = read_image(encoded(image, kind, transparency=0))
    assert read.getpixel((0, 0)) == (255, 255, 255)
    assert read.getpixel((7, 0)) == (0, 0, 255)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_transparent_colour_without_a_palette(mode: str) -> None:
    colour = (9, 8, 7) if mode == "RGB" else 9
    read = read_image(encoded(Image.new(mode, (8, 8), colour), "PNG", transparency=colour))
    assert read.getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_is_converted() -> None:
    read = read_image(encoded(gradient().convert("CMYK"), "JPEG", quality=95))
    assert difference(read, gradient()) < 8


RAMP = np.linspace(0, 1, 256)


@pytest.mark.parametrize(
    ("pixels", "kind"),
    [
        (np.round(RAMP * 65535).astype(np.uint16), "PNG"),
        (np.round(RAMP * 65535).astype(np.uint16), "TIFF"),
        (np.round(RAMP * 65535).astype(np.int32), "PPM"),
        (np.round(RAMP * 65535).astype(np.int32), "TIFF"),
        ((RAMP * 2_000_000_000 - 1_000_000_000).astype(np.int32), "TIFF"),
        (RAMP.astype(np.float32), "TIFF"),
        ((RAMP * 255).astype(np.float32), "TIFF"),
        ((RAMP * 3000 - 500).astype(np.float32), "TIFF"),
    ],
    ids=["png16", "tiff16", "pgm16", "tiff32", "tiff32-wide", "float-0-1", "float-0-255", "float-wide"],
)
def test_deep_pixels_are_scaled_and_not_clipped(pixels: np.ndarray, kind: str) -> None:
    read = np.asarray(read_image(encoded(Image.fromarray(np.tile(pixels, (8, 1))), kind)), np.int16)
    assert np.abs(read[4, :, 0] - np.arange(256)).max() <= 1


def test_a_dark_deep_image_stays_dark() -> None:
    read = read_image(encoded(Image.fromarray(np.full((8, 8), 2570, np.uint16)), "PNG"))
    assert read.getpixel((0, 0)) == (10, 10, 10)


def test_pixels_that_are_no_numbers_are_black() -> None:
    pixels = np.full((8, 8), 1, np.float32)
    pixels[0] = np.nan
    pixels[1] = -np.inf
    read = read_image(encoded(Image.fromarray(pixels), "TIFF"))
    assert read.getpixel((0, 0)) is not None


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    upright = gradient()
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert difference(read_image(encoded(stored, kind, exif=exif)), upright) < 8


DAMAGED_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
def test_damaged_exif_is_no_reason_to_refuse() -> None:
    assert difference(read_image(encoded(gradient(), "JPEG", exif=DAMAGED_EXIF)), gradient()) < 8


@pytest.mark.filterwarnings("default::UserWarning:PIL.TiffImagePlugin")
def test_what_pillow_warns_of_does_not_reach_the_user(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet_dependencies():
        read_image(encoded(gradient(), "JPEG", exif=DAMAGED_EXIF))
    assert capsys.readouterr() == ("", "")


def test_garbage_inside_a_jpeg_is_accepted() -> None:
    data = bytearray(encoded(gradient(400, 300), "JPEG"))
    data[len(data) // 2] ^= 0x10
    assert read_image(bytes(data)).size == (400, 300)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    assert probe(data).animated
    red, green, blue = read_image(data).getpixel((8, 8))
    assert red > 240
    assert max(green, blue) < 15


def test_the_first_image_of_a_stereo_photograph() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    red, _, blue = read_image(data).getpixel((8, 8))
    assert red > 240 > blue


def test_draft_never_goes_below_the_asked_size() -> None:
    data = encoded(gradient(1600, 1200), "JPEG")
    assert read_image(data, draft=(300, 300)).size == (400, 300)
    assert read_image(data, draft=(301, 301)).size == (800, 600)
    assert read_image(data, draft=(2000, 2000)).size == (1600, 1200)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"just a note about cats\n" * 40, "is text, not an image"),
        ("größe".encode() * 200, "is text, not an image"),
        (b"\n<!DOCTYPE html><html><body>404", "is HTML, not an image"),
        (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "format not accepted (SVG)"),
        (b"%PDF-1.7\n", "format not accepted (PDF)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "format not accepted (EPS)"),
        (b"SIMPLE  =                    T", "format not accepted (FITS)"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "format not accepted (HEIC)"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "format not accepted (AVIF)"),
        (b"\0\0\0\x20ftypisom\0\0\0\0", "is a video, not an image"),
        (b"PK\x03\x04\x14\0\0\0", "is an archive, not an image"),
        (b"II*\0\x10\0\0\0CR\x02\0", "format not accepted (a raw photograph)"),
        (bytes(range(100, 256)), "format not accepted (unknown)"),
        (b"\xff\xd8\xff", "damaged JPEG"),
    ],
)
def test_what_is_no_image_is_named(data: bytes, reason: str) -> None:
    for read in (probe, read_image):
        with pytest.raises(BadImageError) as caught:
            read(data)
        assert caught.value.reason.startswith(reason)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "reason"),
    [((101, 100), "over the limit of 10,000"), ((3, 50), "a side under 4"), ((50, 3), "a side under 4")],
)
def test_limits(size: tuple[int, int], reason: str) -> None:
    limits = ImageLimits(max_pixels=10_000, min_side=4)
    assert read_image(encoded(Image.new("RGB", (100, 100)), "PNG"), limits).size == (100, 100)
    assert read_image(encoded(Image.new("RGB", (4, 2500)), "PNG"), limits).size == (4, 2500)
    with pytest.raises(BadImageError, match=reason):
        probe(encoded(Image.new("RGB", size), "PNG"), limits)


def test_a_limit_above_pillows_own_works_and_leaves_pillow_alone() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None
    huge = png_header(40_000, 30_000)
    assert probe(huge, ImageLimits(max_pixels=2_000_000_000)).width == 40_000
    with pytest.raises(BadImageError, match="over the limit"):
        probe(huge)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(huge))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    with pytest.raises(BadImageError, match="not a regular file"):
        read_image(pipe)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(BadImageError, match="no such file"):
        read_image(tmp_path / "missing.jpg")
    with pytest.raises(BadImageError, match="not a regular file"):
        read_image(tmp_path)


def test_threads_read_what_one_reads() -> None:
    files = [encoded(ImageOps.scale(gradient(), 1 + n / 4), kind) for n in range(6) for kind in FORMATS]
    alone = [read_image(data).tobytes() for data in files]
    with ThreadPoolExecutor(8) as pool:
        assert [image.tobytes() for image in pool.map(read_image, files)] == alone

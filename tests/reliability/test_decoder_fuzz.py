"""Mutated files never crash or hang the reader; decompression bombs are refused from their header."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_tl.core.errors import BadImageError
from cnn_tl.data.decoding.image import ImageLimits, probe, read_image

FORMATS = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"]
LIMITS = ImageLimits(max_pixels=1_000_000)


def image(kind: str, size: tuple[int, int] = (48, 40)) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    smooth = Image.fromarray(noise).resize((6, 5)).resize(size)
    stream = io.BytesIO()
    options = {"TIFF": {"compression": "tiff_lzw"}, "JPEG": {"progressive": True}}
    smooth.save(stream, kind, **options.get(kind, {}))
    return stream.getvalue()


def mutated(data: bytes, draw: random.Random) -> bytes:
    mutant = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8, 64])):
        mutant[draw.randrange(len(mutant))] = draw.choice([0, 0xFF, draw.randrange(256)])
    if draw.random() < 0.3:
        del mutant[draw.randrange(len(mutant)) :]
    if draw.random() < 0.2:
        start = draw.randrange(len(mutant) + 1)
        mutant[start:start] = mutant[: draw.randrange(64)]
    return bytes(mutant)


def survive(kind: str, rounds: int) -> tuple[int, int]:
    """Read `rounds` mutants; return how many were read and how many refused."""
    draw, original = random.Random(kind), image(kind)
    refusals = []
    for _ in range(rounds):
        try:
            decoded = read_image(mutated(original, draw), LIMITS, draft=(16, 16))
        except BadImageError as error:
            refusals.append(str(error))
        else:
            assert np.asarray(decoded).shape == (decoded.height, decoded.width, 3)
    assert all(refusal.isprintable() for refusal in refusals)  # which includes: one line
    return rounds - len(refusals), len(refusals)


@pytest.mark.parametrize("kind", FORMATS)
def test_mutants_are_read_or_refused(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    taken, refused = survive(kind, 200)
    assert taken > 0
    assert refused > 0
    if kind != "TIFF":  # libtiff speaks to stderr by itself
        assert capfd.readouterr() == ("", "")


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", FORMATS)
def test_many_mutants_are_read_or_refused(kind: str) -> None:
    survive(kind, 4_000)


def png(width: int, height: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    zeros = zlib.compress(bytes(99_999))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zeros) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    data = image("JPEG")
    at = data.index(b"\xff\xc2") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + image("GIF")[10:]


def gif_frame(width: int, height: int) -> bytes:
    data = image("GIF")
    at = data.index(b",\0\0\0\0") + 5
    return data[:at] + struct.pack("<HH", width, height) + data[at + 4 :]


def bmp(width: int, height: int) -> bytes:
    data = image("BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def ppm(width: int, height: int) -> bytes:
    return f"P6 {width} {height} 255\n".encode() + bytes(999)


def webp(width: int, height: int) -> bytes:
    """An animation of small frames on a huge canvas."""
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    stream = io.BytesIO()
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    data = stream.getvalue()
    at = data.index(b"VP8X") + 12
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return data[:at] + size + data[at + 6 :]


def tiff(width: int, height: int) -> bytes:
    data = bytearray(image("TIFF"))
    directory = struct.unpack_from("<I", data, 4)[0]
    for at in range(directory + 2, directory + 2 + 12 * struct.unpack_from("<H", data, directory)[0], 12):
        tag = struct.unpack_from("<H", data, at)[0]
        if tag in (256, 257):
            struct.pack_into("<HII", data, at + 2, 4, 1, width if tag == 256 else height)
    return bytes(data)


BOMBS = {
    **{f"png-{side}": png(side, side) for side in (10_000, 30_000, 200_000, 2**31 - 1)},
    **{f"jpeg-{side}": jpeg(side, side) for side in (10_000, 30_000, 65_500)},
    **{f"gif-{side}": gif(side, side) for side in (10_000, 65_535)},
    **{f"gif-frame-{side}": gif_frame(side, side) for side in (10_000, 65_535)},
    **{f"bmp-{side}": bmp(side, side) for side in (10_000, 2**31 - 1)},
    **{f"ppm-{side}": ppm(side, side) for side in (10_000, 999_999)},
    **{f"webp-{side}": webp(side, side) for side in (10_000, 13_000, 16_384)},
    **{f"tiff-{side}": tiff(side, side) for side in (10_000, 2**31 - 1)},
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused(name: str) -> None:
    for read in (probe, read_image):
        with pytest.raises(BadImageError, match=r"over the limit|more pixels"):
            read(BOMBS[name])


def test_bombs_need_no_memory(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="peak memory is measured on Unix only")
    for name, data in BOMBS.items():
        (tmp_path / name).write_bytes(data)
    script = """
import resource, sys
from pathlib import Path
from cnn_tl.data.decoding.image import probe, read_image
from cnn_tl.core.errors import BadImageError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
for path in Path(sys.argv[1]).iterdir():
    for read in probe, read_image:
        try:
            read(path)
            sys.exit(f"{path} was read")
        except BadImageError:
            pass
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, tmp_path], capture_output=True, text=True, check=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 50 * 2**20
    assert done.stderr == ""

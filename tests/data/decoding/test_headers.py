"""Sizes read without a decoder: where there is one, Pillow finds the same, however the file was damaged."""

from __future__ import annotations

import io
import random
import struct
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from cnn_tl.core.errors import BadImageError
from cnn_tl.data.decoding.headers import plain_header
from cnn_tl.data.decoding.image import ImageFacts, ImageLimits, probe, probe_head

ANY_SIZE = ImageLimits(max_pixels=sys.maxsize, min_side=1)


def encoded(mode: str, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.radial_gradient("L").resize((40, 30)).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def texts() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Title", "a gradient")
    return info


PLAIN = {
    "grey": encoded("L", "JPEG"),
    "colour": encoded("RGB", "JPEG", comment="holidays", dpi=(72, 72)),
    "CMYK": encoded("CMYK", "JPEG"),
    "progressive": encoded("RGB", "JPEG", progressive=True, restart_marker_rows=1, icc_profile=b"x" * 70_000),
    "grey PNG": encoded("L", "PNG"),
    "one bit": encoded("1", "PNG"),
    "16 bits": encoded("I;16", "PNG"),
    "palette": encoded("P", "PNG", dpi=(72, 72)),
    "transparent PNG": encoded("RGBA", "PNG", pnginfo=texts(), exif=Image.Exif().tobytes()),
}
LEFT_TO_PILLOW = {
    "profile": encoded("RGB", "PNG", icc_profile=b"profile"),
    "palette missing": PLAIN["palette"].replace(b"PLTE", b"abcd", 1),
    "animated": encoded("RGB", "PNG", save_all=True, append_images=[Image.new("RGB", (40, 30))]),
    "12 bits": PLAIN["colour"].replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
    "arithmetic": PLAIN["colour"].replace(b"\xff\xc0\0\x11", b"\xff\xc9\0\x11"),
    "no scan": PLAIN["colour"][: PLAIN["colour"].index(b"\xff\xda")],
    "checksum": PLAIN["grey PNG"].replace(b"IHDR\0\0\0\x28", b"IHDR\0\0\0\x29"),
    "GIF": encoded("L", "GIF"),
    "empty": b"",
}


@pytest.mark.parametrize("case", PLAIN)
def test_ordinary_files_need_no_decoder(case: str) -> None:
    data = PLAIN[case]
    kind = "PNG" if data.startswith(b"\x89") else "JPEG"
    assert plain_header(data) == (kind, 40, 30)
    assert probe_head(data[:-20]) == ImageFacts(kind, 40, 30, animated=False) == probe(data)


@pytest.mark.parametrize("case", LEFT_TO_PILLOW)
def test_others_are_left_to_pillow(case: str) -> None:
    assert plain_header(LEFT_TO_PILLOW[case]) is None


@pytest.mark.parametrize("limits", [ImageLimits(max_pixels=1199), ImageLimits(min_side=31)])
def test_limits_hold_without_a_decoder(limits: ImageLimits) -> None:
    reasons = []
    for look in (probe, probe_head):
        with pytest.raises(BadImageError) as caught:
            look(PLAIN["colour"], limits)
        reasons.append(caught.value.reason)
    assert reasons[0] == reasons[1]


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Return a file with a few changes near its start; in a PNG, some get the right checksums and more chunks."""
    changed = bytearray(data)
    for _ in range(dice.choice([1, 1, 2, 5])):
        at = dice.randrange(2, min(len(changed), dice.choice([40, 200, 700])))
        some = dice.randbytes(dice.randrange(1, 20))
        what = dice.randrange(4)
        if what == 0:
            changed[at] = dice.choice([*some, 0, 1, 2, 8, 16, 0xC0, 0xC2, 0xDA, 0xDB, 0xE1, 0xFF])
        elif what == 1:
            del changed[at : at + len(some)]
        elif what == 2:
            changed[at:at] = some
        else:
            del changed[at + dice.choice([0, 300]) :]
        if len(changed) < 10:
            break
    return b"".join(repaired(bytes(changed), dice)) if dice.random() < 0.7 else bytes(changed)


def repaired(data: bytes, dice: random.Random) -> Iterator[bytes]:
    at = 8 if data.startswith(b"\x89PNG") else len(data)
    yield data[:at]
    while len(data) - at >= 12 and len(data) - at >= 12 + (length := int.from_bytes(data[at : at + 4])):
        yield chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
        if dice.random() < 0.3:
            name = dice.choice(
                [b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"pHYs", b"tEXt", b"eXIf", b"PLTE", b"acTL", b"abCd"]
            )
            yield chunk(name, dice.randbytes(dice.choice([0, 1, 2, 4, 6, 8, 9, 26, 32])))
    yield data[at:]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", PLAIN)
def test_what_is_recognised_in_damaged_files_pillow_finds_too(case: str) -> None:
    dice, recognised = random.Random(case), 0
    for _ in range(800):
        data = damaged(PLAIN[case], dice)
        plain = plain_header(data)
        if plain is not None:
            recognised += 1
            assert probe(data, ANY_SIZE) == ImageFacts(*plain, animated=False)
    assert recognised > 20

"""Files that other viewers show: odd in what is not pixels, or in how their pixels are kept."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cnn_tl.core.errors import BadImageError
from cnn_tl.data.decoding.image import ImageLimits, probe, read_image

HEIGHT, WIDTH = 24, 32
Y, X = np.mgrid[:HEIGHT, :WIDTH]
COLOUR = np.stack([X * 8, Y * 10, 4 * X + 5 * Y], axis=-1).astype(np.uint8)
GREY = (X * 8).astype(np.uint8)
BIG = zlib.compress(bytes(3_000_000))


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def off(read: Image.Image, expected: np.ndarray) -> int:
    """Return by how much the worst pixel differs."""
    expected = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, axis=-1)
    assert (read.mode, read.size) == ("RGB", expected.shape[1::-1])
    return int(np.abs(np.asarray(read).astype(int) - expected.astype(int)).max())


def chunk(name: bytes, data: bytes, wrong: int = 0) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data) ^ wrong)


def png(
    pixels: np.ndarray, before: Iterable[bytes] = (), after: Iterable[bytes] = (), *, bits: int = 8, end: bool = True
) -> bytes:
    """Write grey or RGB; rows of less than 8 bits come packed."""
    colour = 2 if pixels.ndim == 3 else 0
    height, width = pixels.shape[0], WIDTH
    rows = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    parts = [b"\x89PNG\r\n\x1a\n", header, *before, chunk(b"IDAT", zlib.compress(rows)), *after]
    return b"".join([*parts, chunk(b"IEND", b"") if end else b""])


ODD_CHUNKS = {
    "long zTXt": chunk(b"zTXt", b"k\0\0" + BIG),
    "long iTXt": chunk(b"iTXt", b"k\0\1\0\0\0" + BIG),
    "large profile": chunk(b"iCCP", b"n\0\0" + BIG),
    "unknown compression": chunk(b"iCCP", b"n\0\5abc"),
    "wrong tEXt": chunk(b"tEXt", b"k\0v", wrong=1),
    "wrong unknown": chunk(b"quUx", b"abc", wrong=1),
    "short gAMA": chunk(b"gAMA", b"\0"),
    "damaged eXIf": chunk(b"eXIf", b"\xff" * 40),
    "wrong eXIf": chunk(b"eXIf", b"MM\0*", wrong=1),
    "short pHYs": chunk(b"pHYs", b"\0"),
    "impossible acTL": chunk(b"acTL", struct.pack(">II", 2**31, 0)),
    "short tRNS": chunk(b"tRNS", b"\0\1"),
    "empty tRNS": chunk(b"tRNS", b""),
    "wrong tRNS": chunk(b"tRNS", struct.pack(">HHH", *map(int, COLOUR[3, 3])), wrong=1),
}


@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_what_is_not_pixels_does_not_stop_a_png(name: str) -> None:
    for data in (png(COLOUR, [ODD_CHUNKS[name]]), png(COLOUR, (), [ODD_CHUNKS[name]])):
        assert probe(data).width == WIDTH
        assert off(read_image(data), COLOUR) == 0


def test_many_texts_do_not_stop_a_png_and_pillow_keeps_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_MEMORY", 64_000)
    texts = [chunk(b"tEXt", b"k%d\0" % number + bytes(1_000)) for number in range(72)]
    with pytest.raises(ValueError, match="MAX_TEXT_MEMORY"):
        PngImagePlugin.PngImageFile(io.BytesIO(png(COLOUR, texts)))
    assert off(read_image(png(COLOUR, texts)), COLOUR) == 0
    assert off(read_image(png(COLOUR, [ODD_CHUNKS["long zTXt"]])), COLOUR) == 0
    with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"):
        PngImagePlugin.PngImageFile(io.BytesIO(png(COLOUR, [ODD_CHUNKS["long zTXt"]])))


def test_orientation_counts_beside_a_damaged_text() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    odd = [ODD_CHUNKS["wrong tEXt"], chunk(b"eXIf", exif.tobytes()[6:])]
    assert off(read_image(png(COLOUR, odd)), np.rot90(COLOUR, -1)) == 0


def test_a_bomb_behind_an_odd_chunk_is_refused_by_its_header() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0))
    bomb = b"\x89PNG\r\n\x1a\n" + header + ODD_CHUNKS["long zTXt"] + chunk(b"IDAT", b"")
    with pytest.raises(BadImageError, match="over the limit"):
        read_image(bomb)


@pytest.mark.parametrize("name", [b"IHDR", b"IDAT"])
def test_damaged_pixels_are_refused_whatever_the_texts(name: bytes) -> None:
    data = bytearray(png(COLOUR, [ODD_CHUNKS["wrong tEXt"]]))
    data[data.index(name) + 12] ^= 0x55
    with pytest.raises(BadImageError, match="PNG"):
        read_image(bytes(data))


@pytest.mark.parametrize("cut", [0, 4])
def test_a_png_without_its_end_is_whole_and_one_without_pixels_is_not(cut: int) -> None:
    data = png(COLOUR, end=False)
    assert off(read_image(data[: len(data) - cut]), COLOUR) == 0
    with pytest.raises(BadImageError, match="truncated PNG"):
        read_image(data[:-20])


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    every = (values.astype(np.uint32)[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(every.reshape(len(values), -1).astype(np.uint8), axis=1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_a_png_is_one_of_its_own_values(bits: int) -> None:
    values = (X % 2**bits).astype(np.uint8)
    data = png(packed(values, bits), [chunk(b"tRNS", b"\0\1")], bits=bits)
    assert off(read_image(data), np.where(values == 1, 255, values * (255 // (2**bits - 1)))) == 0


def test_a_transparent_colour_of_16_bits_is_compared_with_16_bits() -> None:
    grey = GREY.astype(np.uint16) * 257
    grey[0, 0] = grey[5, 5] + 1  # the same in 8 bits
    transparent = grey == grey[5, 5]
    read = read_image(png(grey, [chunk(b"tRNS", struct.pack(">H", grey[5, 5]))], bits=16))
    assert off(read, np.where(transparent, 255, grey >> 8)) <= 1
    colour = COLOUR.astype(np.uint16) * 257
    colour[:, :9] = colour[7, 7]
    colour[0, 0, 1] ^= 1
    seen = np.where((colour == colour[7, 7]).all(axis=-1, keepdims=True), 255, colour >> 8)
    read = read_image(png(colour, [chunk(b"tRNS", struct.pack(">HHH", *map(int, colour[7, 7])))], bits=16))
    assert off(read, seen) == 0
    assert read.getpixel((0, 0)) != (255, 255, 255)
    assert read.getpixel((1, 1)) == (255, 255, 255)


SAVED = [{}, {"quality": 30}, {"progressive": True}, {"restart_marker_blocks": 1}, {"optimize": True}]


@pytest.mark.parametrize("options", SAVED)
@pytest.mark.parametrize("tail", [b"", b"\xff\xff\xff"])
def test_a_jpeg_without_its_end_is_whole_where_every_pixel_is_there(options: dict[str, object], tail: bytes) -> None:
    data = encoded(COLOUR, "JPEG", **options)
    for cut in (1, 2):
        assert read_image(data[:-cut] + tail).tobytes() == read_image(data).tobytes()
    for cut in (4, 5, 7, 12, 25, 40):
        with pytest.raises(BadImageError, match="truncated JPEG"):
            read_image(data[:-cut] + tail)


def test_a_progressive_jpeg_that_lacks_a_scan_is_cut() -> None:
    data = encoded(COLOUR, "JPEG", progressive=True)
    with pytest.raises(BadImageError, match="truncated JPEG"):
        read_image(data[: data.rindex(b"\xff\xda")])
    with pytest.raises(BadImageError, match="truncated JPEG"):
        read_image(data[: data.rindex(b"\xff\xc4")])


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


@pytest.mark.parametrize(
    "odd",
    [
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"ICC_PROFILE\0\1\5abc"),
        segment(0xE0, b"JFIF\0"),
        segment(0xEE, b"Adobe"),
        segment(0xE2, b"MPF\0garbage"),
        segment(0xED, b"Photoshop 3.0\0008BIM\x03\xed\0\0\0\0\0\1a"),
        segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 60_000),
        segment(0xFE, b"\xff" * 65_000),
    ],
)
def test_what_is_not_pixels_does_not_stop_a_jpeg(odd: bytes) -> None:
    data = encoded(COLOUR, "JPEG")
    for end in (len(data), -2):
        assert read_image(data[:2] + odd + data[2:end]).tobytes() == read_image(data).tobytes()


@pytest.mark.parametrize("cut", [0, 40, 64])
def test_damaged_metadata_does_not_stop_a_webp(cut: int) -> None:
    data = encoded(COLOUR, "WEBP", lossless=True, exif=b"Exif\0\0" + b"\xff" * 60)
    assert off(read_image(data[: len(data) - cut]), COLOUR) == 0
    with pytest.raises(BadImageError, match="WEBP"):
        read_image(data[:-70])


@pytest.mark.parametrize("cut", [1, 2])
def test_a_gif_without_its_trailer_is_whole(cut: int) -> None:
    data = encoded(COLOUR, "GIF")
    comment = b"!\xfe" + 9_000 * (b"\xff" + b"c" * 255) + b"\0"
    at = data.index(b",\0\0\0\0")
    assert read_image(data[:at] + comment + data[at:-cut]).tobytes() == read_image(data).tobytes()


def bmp(header: int, alpha: int) -> bytes:
    """Write 32 bits with masks, as V3 (56 bytes), V4 (108) or V5 (124)."""
    fields = struct.pack("<IiiHHIIiiII", header, WIDTH, -HEIGHT, 1, 32, 3, 0, 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    pixels = np.concatenate([COLOUR[..., ::-1], np.full((HEIGHT, WIDTH, 1), alpha, np.uint8)], axis=-1).tobytes()
    head = (fields + masks).ljust(header, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels


@pytest.mark.parametrize("header", [56, 108, 124])
def test_a_bitmap_that_is_transparent_everywhere_is_opaque(header: int) -> None:
    assert off(read_image(bmp(header, 0)), COLOUR) == 0
    assert off(read_image(bmp(header, 255)), COLOUR) == 0
    assert off(read_image(bmp(header, 128)), COLOUR // 2 + 128) <= 1


def tiff(order: str, data: bytes, tags: dict[int, tuple[str, tuple[float, ...]]]) -> bytes:
    """Write an uncompressed TIFF of one strip; a tag's values come with their type: H, I, f or s."""
    types = {"H": 3, "I": 4, "f": 11, "s": 2}
    tags = {256: ("I", (WIDTH,)), 257: ("I", (HEIGHT,)), 278: ("I", (HEIGHT,)), 279: ("I", (len(data),))} | tags
    tags[273] = ("I", (8,))
    outside = b""
    entries = b""
    directory = 8 + len(data)
    behind = directory + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        body = values[0].encode() + b"\0" if kind == "s" else struct.pack(f"{order}{len(values)}{kind}", *values)
        count = len(body) if kind == "s" else len(values)
        if len(body) > 4:
            place, outside = struct.pack(order + "I", behind + len(outside)), outside + body
        else:
            place = body.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, types[kind], count) + place
    start = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(order + "H", len(tags)) + entries + bytes(4)
    return start + struct.pack(order + "I", directory) + data + entries + outside


def sampled(order: str, pixels: np.ndarray, photometric: int, **more: tuple[str, tuple[float, ...]]) -> bytes:
    samples = 1 if pixels.ndim == 2 else pixels.shape[-1]
    kind = {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind]
    tags = {
        258: ("H", (8 * pixels.dtype.itemsize,) * samples), 262: ("H", (photometric,)), 277: ("H", (samples,)),
        339: ("H", (kind,) * samples), **{int(name[1:]): value for name, value in more.items()},
    }  # fmt: skip
    return tiff(order, pixels.astype(pixels.dtype.newbyteorder(order)).tobytes(), tags)


DEEP = {
    "uint16": GREY.astype(np.uint16) * 257,
    "uint32": GREY.astype(np.uint32) * 16843009,
    "int8": (GREY // 2).astype(np.int8),
    "int16": (GREY * 32767.0 / 255).astype(np.int16),
    "float16": (GREY / 255).astype(np.float16),
    "float32": (GREY / 255).astype(np.float32),
    "float64": GREY / 255,
    "uint64": GREY.astype(np.uint64) * 72340172838076673,
}
MOST = {"uint16": 65535, "uint32": 2**32 - 1, "int8": 127, "int16": 32767, "uint64": 2**64 - 1}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("name", DEEP)
def test_grey_tiffs_of_all_depths_show_one_image_whatever_is_white(name: str, order: str) -> None:
    pixels = DEEP[name]
    most = pixels.dtype.type(MOST.get(name, 1))
    assert off(read_image(sampled(order, pixels, 1)), GREY) <= 2
    assert off(read_image(sampled(order, most - pixels, 0)), GREY) <= 2


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [2, 4, 12])
def test_packed_samples_have_the_range_of_their_bits(bits: int, photometric: int, order: str) -> None:
    values = (GREY * (2.0**bits - 1) / 255).round().astype(np.uint16)
    expected = (values * 255.0 / (2**bits - 1)).round()
    stored = values if photometric else 2**bits - 1 - values
    tags = {258: ("H", (bits,)), 262: ("H", (photometric,)), 277: ("H", (1,))}
    assert off(read_image(tiff(order, packed(stored, bits).tobytes(), tags)), expected) <= 1


@pytest.mark.parametrize("tag", [341, 281])
@pytest.mark.parametrize("bits", [10, 12, 14])
def test_fewer_bits_than_the_container_has_count_where_they_are_declared(bits: int, tag: int) -> None:
    most = 2**bits - 1
    grey = (GREY * (most / 255)).round().astype(np.uint16)
    assert off(read_image(sampled("<", grey, 1, **{f"t{tag}": ("H", (most,))})), GREY) <= 1
    colour = (COLOUR * (most / 255)).round().astype(np.uint16)
    assert off(read_image(sampled("<", colour, 2, **{f"t{tag}": ("H", (most,) * 3)})), COLOUR) <= 1
    largest = {f"t{tag}": ("H", (most - 9,))}  # of the image, perhaps
    assert off(read_image(sampled("<", grey, 1, **largest)), grey // 257) <= 1


def test_the_value_of_no_data_decides_no_range() -> None:
    pixels = GREY.astype(np.float32)
    pixels[:4] = -9999
    read = read_image(sampled("<", pixels, 1, t42113=("s", ("-9999",))))
    assert off(read, np.where(pixels < 0, 0, GREY)) <= 1


@pytest.mark.parametrize("order", "<>")
def test_grey_of_16_bits_with_alpha_lies_on_white(order: str) -> None:
    alpha = np.where(X < 9, 0, 65535).astype(np.uint16)
    pixels = np.stack([DEEP["uint16"], alpha], axis=-1)
    seen = np.where(alpha == 0, 255, GREY)
    assert off(read_image(sampled(order, pixels, 1, t338=("H", (2,)))), seen) <= 1
    pixels[alpha == 0] = 0
    assert off(read_image(sampled(order, pixels, 1, t338=("H", (1,)))), seen) <= 1


def test_cielab_is_converted() -> None:
    lab = np.zeros((HEIGHT, WIDTH, 3), np.int8)
    lab.view(np.uint8)[..., 0] = 128
    assert off(read_image(sampled("<", lab.view(np.uint8), 8)), np.full_like(GREY, 119)) <= 2


def header_of(marker: int, bits: int = 8) -> bytes:
    frame = segment(marker, struct.pack(">BHHB", bits, HEIGHT, WIDTH, 1) + b"\1\x11\0")
    return b"\xff\xd8" + frame + segment(0xDA, b"\1\1\0\0\x3f\0") + b"abc" * 40 + b"\xff\xd9"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (header_of(0xC1, 12), "12-bit JPEG"),
        (header_of(0xC3), "lossless JPEG"),
        (header_of(0xC9), "arithmetic-coded JPEG"),
        (header_of(0xF7), "JPEG-LS"),
        (header_of(0xC5), "hierarchical JPEG"),
        (sampled("<", COLOUR.astype(np.float32), 2), "TIFF of 3 x 32-bit floating-point samples"),
        (sampled(">", COLOUR.astype(np.uint32), 2), "TIFF of 3 x 32-bit unsigned samples"),
        (sampled("<", np.stack([GREY] * 8, axis=-1), 1), "TIFF of 8 x 8-bit unsigned samples"),
        (sampled("<", GREY, 3, t258=("H", (16,))), "TIFF palette of 16-bit unsigned samples"),
        (sampled("<", GREY.astype(np.uint64), 1, t339=("H", (6,))), "TIFF of complex numbers"),
        (sampled("<", GREY, 1, t259=("H", (34712,))), "TIFF with compression 34712"),
        (sampled("<", GREY, 1, t50706=("I", (1,))), "a raw photograph"),
        (sampled("<", GREY, 1, t254=("I", (1,)), t330=("I", (8,))), "a raw photograph"),
    ],
)
def test_a_whole_file_of_an_unsupported_kind_is_named(data: bytes, what: str) -> None:
    with pytest.raises(BadImageError) as caught:
        read_image(data)
    assert caught.value.reason == f"{what} is not supported; convert it to PNG, or to another accepted format"


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a" + bytes(range(99, 199)), "JPEG XL"),
        (bytes(128) + b"DICM", "DICOM"),
        (b"v/1\1\2\0\0\0", "OpenEXR"),
        (b"#?RADIANCE\n", "Radiance HDR"),
        (b"\0\0\0\x18ftypcrx ", "a raw photograph"),
        (b"FUJIFILMCCD-RAW", "a raw photograph"),
        (b"8BPS\0\2", "PSD"),
        (b"MM\0+\0\x08\0\0", "BigTIFF of the other byte order"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI", "PNG of an iPhone application"),
    ],
)
def test_a_foreign_format_is_named_and_what_to_do(head: bytes, what: str) -> None:
    with pytest.raises(BadImageError, match=rf"^format not accepted \({what}\);.*; convert it to PNG"):
        read_image(head + bytes(40))


def test_second_tries_are_the_same_in_threads() -> None:
    odd = [png(COLOUR, [each]) for each in ODD_CHUNKS.values()]
    odd += [encoded(COLOUR, "JPEG")[:-2], sampled(">", DEEP["float64"], 0), bmp(108, 0)]
    alone = [read_image(data).tobytes() for data in odd]
    with ThreadPoolExecutor(8) as pool:
        assert [image.tobytes() for image in pool.map(read_image, odd)] == alone


def test_limits_hold_for_second_tries() -> None:
    odd = png(COLOUR, [ODD_CHUNKS["wrong tEXt"]])
    for data in (odd, encoded(COLOUR, "JPEG")[:-2], sampled("<", DEEP["float64"], 1)):
        with pytest.raises(BadImageError, match="over the limit of 100"):
            read_image(data, ImageLimits(max_pixels=100))

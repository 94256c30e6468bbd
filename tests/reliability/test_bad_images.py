"""28 kinds of bad or odd images: each behaves as defined under both policies, and no file changes."""

from __future__ import annotations

import hashlib
import io
import stat
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_tl.core.errors import BadImageError, DataError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.decoding.image import ImageLimits
from cnn_tl.data.folders.scan import scan
from cnn_tl.data.manifest import Manifest
from cnn_tl.data.views.transforms import read_pixels

LIMITS = ImageLimits(max_pixels=100_000)
SPEC = Preprocessing(
    16, 16, "bilinear", 0.875, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), LIMITS.max_pixels, LIMITS.min_side
)


def noise(width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


JPEG, PNG = encoded(noise(), "JPEG"), encoded(noise(), "PNG")
ROTATED = Image.Exif()
ROTATED[0x0112] = 6


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def declared(png: bytes, side: int) -> bytes:
    header = b"IHDR" + struct.pack(">II", side, side) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


REFUSED_BY_SCAN: dict[str, tuple[bytes, str]] = {
    "empty.jpg": (b"", "empty file"),
    "text.jpg": (b"not an image at all", "is text"),
    "html.jpg": (b"<html><body>404 Not Found</body></html>", "is HTML"),
    "photo.heic": (b"\0\0\0\x18ftypheic" + bytes(99), "HEIC"),
    "paper.pdf": (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'></svg>", "SVG"),
    "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
    "sky.fits": (b"SIMPLE  =                    T" + b" " * 99, "FITS"),
    "noise.jpg": (bytes(range(128, 256)) * 9, "unknown"),
    "zip.png": (b"PK\x03\x04" + bytes(99), "archive"),
    "only-the-start.jpg": (JPEG[:4], "JPEG"),
    "only-the-start.png": (PNG[:20], "PNG"),
    "bomb.png": (declared(PNG, 30_000), "over the limit"),
    "large.jpg": (encoded(Image.new("L", (400, 300)), "JPEG"), "over the limit"),
    "1x1.png": (encoded(Image.new("RGB", (1, 1)), "PNG"), "a side under 4"),
    "1x5000.png": (encoded(Image.new("RGB", (1, 5000)), "PNG"), "a side under 4"),
}
REFUSED_BY_LOAD: dict[str, tuple[bytes, str]] = {
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "truncated JPEG"),
    "truncated.png": (PNG[: len(PNG) // 2], "PNG"),
    "flipped.png": (flipped(PNG, len(PNG) // 2), "damaged PNG"),
}
ACCEPTED: dict[str, bytes] = {
    "garbage-inside.jpg": flipped(JPEG, len(JPEG) // 2),
    "cmyk.jpg": encoded(noise().convert("CMYK"), "JPEG"),
    "deep.png": encoded(Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16), "PNG"),
    "grey-alpha.png": encoded(noise().convert("LA"), "PNG"),
    "palette.png": encoded(noise().convert("P"), "PNG"),
    "alpha.png": encoded(noise().convert("RGBA"), "PNG"),
    "animated.gif": encoded(noise(), "GIF", save_all=True, append_images=[noise(64, 48).rotate(90)]),
    "rotated.jpg": encoded(noise(), "JPEG", exif=ROTATED),
    "a-jpeg.png": JPEG,
}
KINDS = {
    **{name: data for name, (data, _) in (REFUSED_BY_SCAN | REFUSED_BY_LOAD).items()},
    **ACCEPTED,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of four good images each."""
    root = tmp_path / "data"
    for number in range(8):
        path = root / ("cat" if number < 4 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(path)
    return root


def fingerprint(root: Path) -> dict[str, tuple[int, int, str]]:
    def facts(path: Path) -> tuple[int, int, str]:
        now = path.lstat()
        regular = stat.S_ISREG(now.st_mode)
        return now.st_mode, now.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest() if regular else ""

    return {str(path): facts(path) for path in root.rglob("*")}


def scanned(root: Path, on_bad_image: str = "skip") -> Manifest:
    return scan(root, seed=0, val_fraction=0.25, limits=LIMITS, on_bad_image=on_bad_image)  # type: ignore[arg-type]


def decoded(manifest: Manifest) -> Manifest:
    """Decode every image once, as a run does, and set the broken ones aside."""
    broken = []
    for image in manifest.images:
        try:
            assert read_pixels(manifest.file(image), SPEC).shape == (16, 16, 3)
        except BadImageError as error:
            broken.append((image, error.reason))
    return manifest.without(broken)


def test_there_are_28_kinds() -> None:
    assert len(KINDS) == 28


@pytest.mark.parametrize("name", [*REFUSED_BY_SCAN, *REFUSED_BY_LOAD])
def test_a_bad_image_is_named_once_and_set_aside(folder: Path, name: str) -> None:
    data, reason = (REFUSED_BY_SCAN | REFUSED_BY_LOAD)[name]
    (folder / "cat" / name).write_bytes(data)
    before = fingerprint(folder)
    manifest = scanned(folder)
    assert len(manifest.set_aside) == (name in REFUSED_BY_SCAN)
    manifest = decoded(manifest)
    manifest.check()
    [aside] = manifest.set_aside
    assert aside.path == f"cat/{name}"
    assert reason in aside.reason
    assert len(manifest.images) == 8
    assert fingerprint(folder) == before


@pytest.mark.parametrize("name", REFUSED_BY_SCAN)
def test_the_policy_fail_names_the_first(folder: Path, name: str) -> None:
    data, reason = REFUSED_BY_SCAN[name]
    (folder / "cat" / name).write_bytes(data)
    (folder / "dog" / name).write_bytes(data)
    before = fingerprint(folder)
    with pytest.raises(DataError, match=rf"cat.{name}: .*{reason}.*2 broken images in total") as caught:
        scanned(folder, "fail")
    assert "\n" not in str(caught.value)
    assert fingerprint(folder) == before


@pytest.mark.parametrize("policy", ["skip", "fail"])
@pytest.mark.parametrize("name", ACCEPTED)
def test_an_odd_image_is_used(folder: Path, name: str, policy: str) -> None:
    (folder / "cat" / name).write_bytes(ACCEPTED[name])
    before = fingerprint(folder)
    manifest = decoded(scanned(folder, policy))
    assert manifest.set_aside == ()
    assert len(manifest.images) == 9
    assert ["animated" in note for note in manifest.notes] == [True] * (name == "animated.gif")
    assert fingerprint(folder) == before


def test_all_kinds_at_once(folder: Path) -> None:
    for name, data in KINDS.items():
        (folder / "dog" / name).write_bytes(data)
    before = fingerprint(folder)
    manifest = decoded(scanned(folder))
    assert {Path(one.path).name for one in manifest.set_aside} == {*REFUSED_BY_SCAN, *REFUSED_BY_LOAD}
    assert len(manifest.images) == 8 + len(ACCEPTED)
    with pytest.raises(DataError, match="19 of 36 images"):
        manifest.check()
    assert fingerprint(folder) == before

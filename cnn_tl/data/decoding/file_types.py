"""The format of a file, from its first bytes; the extension only decides whether it claims to be an image."""

from __future__ import annotations

import os
import re
from functools import lru_cache
from pathlib import PurePath

CONVERT = "convert it to PNG, or to another accepted format"

HEAD_BYTES = 512
"""How many first bytes of a file `accepted_kind` and `refusal` need."""

ACCEPTED = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""The supported formats; an MPO (the JPEG of a stereo camera) is read as its first JPEG."""


class UnsupportedError(Exception):
    """An undamaged image, but in an unsupported variant of an accepted format; the message names it."""


_ACCEPTED_HEADS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n(?!....CgBI)",
    "GIF": rb"GIF8[79]a",
    "WEBP": rb"RIFF....WEBP",
    "BMP": rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0",  # "BM" alone could be text
    "TIFF": rb"(?:II[*+]\0|MM\0\*)(?!....CR)",
    "PPM": rb"P[1-6]\s+[\d#]",
}
_REFUSED_HEADS = {
    "PNG of an iPhone application": rb"\x89PNG\r\n\x1a\n....CgBI",
    "BigTIFF of the other byte order": rb"MM\0\+",
    "AVIF": rb"....ftypavi[fs]",
    "HEIC": rb"....ftyp(?:hei|hev|mif1|msf1)",
    "a raw photograph": rb"II\*\0....CR|....ftypcrx |FUJIFILM|II(?:U\0|RO|RS)|MMOR|FOVb|\0MRM",
    "a video": rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ",
    "JPEG 2000": rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "PDF": rb"\s*%PDF",
    "JPEG XR": rb"II\xbc",
    "DICOM": rb".{128}DICM",
    "OpenEXR": rb"v/1\x01",
    "Radiance HDR": rb"#\?(?:RADIANCE|RGBE)",
    "PFM": rb"P[Ff]\s+\d",
    "PAM": rb"P7\n",
    "XCF": rb"gimp xcf",
    "DDS": rb"DDS |DDS\0",
    "QOI": rb"qoif",
    "MNG": rb"\x8aMNG|\x8bJNG",
    "NumPy": rb"\x93NUMPY",
    "NIfTI": rb".{344}n[i+]1\0",
    "HDF5": rb"\x89HDF\r\n",
    "EPS": rb"%!PS|\xc5\xd0\xd3\xc6",
    "FITS": rb"SIMPLE  =",
    "PSD": rb"8BPS",
    "ICO": rb"\0\0[\x01\x02]\0",
    "an archive": rb"PK(?:\x03\x04|\x05\x06)|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf|Rar!|.{257}ustar",
    "HTML": rb"\W*<(?:!--.*<)?(?:!doctype html|html|head|body)\b",
    "SVG": rb"\W*<(?:[?!].*<)?svg\b",
}
_ACCEPTED_KINDS = {kind: re.compile(head, re.DOTALL) for kind, head in _ACCEPTED_HEADS.items()}
_REFUSED_KINDS = {kind: re.compile(head, re.DOTALL | re.IGNORECASE) for kind, head in _REFUSED_HEADS.items()}

_IMAGE_EXTENSIONS = re.compile(
    r"\.(jpe?g|jpe|jfif|mpo|a?png|webp|gif|bmp|dib|tiff?|p[pgbn]m"
    r"|hei[cf]|hif|avif|jp2|j2[ck]|jxl|jls|jxr|wdp|pdf|svg|eps|fi?ts|fit|ps[db]|ico|exr|dcm|dicom|pfm|tga|pcx|qoi|xcf"
    r"|cr[23w]|nef|nrw|arw|sr[2fw]|dng|raf|orf|rw2|pef|x3f|mrw|3fr|kdc|dcr|erf)",
    re.IGNORECASE,
)

_SEPARATORS = f"{os.sep}{os.altsep or ''}"


def accepted_kind(head: bytes) -> str | None:
    """Return the accepted format that a file starting with `head` has, or None."""
    return next((kind for kind, pattern in _ACCEPTED_KINDS.items() if pattern.match(head)), None)


def is_archive(head: bytes) -> bool:
    """Return whether a file that starts with `head` is an archive."""
    return _REFUSED_KINDS["an archive"].match(head) is not None


def refusal(head: bytes) -> str:
    """Return why a file that starts with `head`, and has no accepted format, is not read."""
    if not head:
        return "empty file"
    kind = next((kind for kind, pattern in _REFUSED_KINDS.items() if pattern.match(head)), None)
    if kind is None and _is_text(head):
        kind = "text"
    if kind in ("text", "HTML", "an archive", "a video"):
        return f"is {kind}, not an image"
    accepted = ", ".join(ACCEPTED)
    return f"format not accepted ({kind or 'unknown'}); accepted are {accepted}" + (f"; {CONVERT}" if kind else "")


def has_image_extension(path: str | PurePath) -> bool:
    """Return whether the extension of a path is that of an image, in an accepted format or not."""
    name = os.fspath(path)
    dot = name.rfind(".")
    return dot > 0 and name[dot - 1] not in _SEPARATORS and _is_extension(name[dot:])


@lru_cache(maxsize=256)
def _is_extension(text: str) -> bool:
    return _IMAGE_EXTENSIONS.fullmatch(text) is not None


def _is_text(head: bytes) -> bool:
    text = head.decode("utf-8", "ignore")  # the end may have split a character
    return len(text.encode()) >= len(head) - 3 and all(c.isprintable() or c.isspace() for c in text)

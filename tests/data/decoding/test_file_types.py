from __future__ import annotations

from pathlib import PurePath

import pytest

from cnn_tl.data.decoding.file_types import accepted_kind, has_image_extension, is_archive


@pytest.mark.parametrize("name", ["a.jpg", "A.JPG", "a.b.Jpeg", "a.tiff", "a.heic", "a.pdf", "a.fits"])
def test_names_of_images(name: str) -> None:
    assert has_image_extension(PurePath(name))


@pytest.mark.parametrize("name", ["jpg", "a.txt", "a.jpg.txt", "a.jpgx", "a", "Thumbs.db"])
def test_other_names(name: str) -> None:
    assert not has_image_extension(PurePath(name))


@pytest.mark.parametrize("head", [b"", b"BM is how a bitmap starts", b"P6 or not", b"\xff\xd8"])
def test_heads_that_only_look_like_a_image(head: bytes) -> None:
    assert accepted_kind(head) is None


@pytest.mark.parametrize(
    ("head", "archive"),
    [(b"PK\x03\x04", True), (b"\x1f\x8b\x08", True), (bytes(257) + b"ustar", True), (b"PKPK", False)],
)
def test_archives(head: bytes, archive: bool) -> None:
    assert is_archive(head) is archive

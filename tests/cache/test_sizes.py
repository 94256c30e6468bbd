from __future__ import annotations

import pytest

from cnn_tl.cache import sizes
from cnn_tl.core.errors import UsageError


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0), ("17", 17), ("17B", 17), ("500MB", 500_000_000), ("2GB", 2 * 10**9), ("2 gb", 2 * 10**9),
        ("1.5GiB", 3 * 2**29), ("1KiB", 1024), ("1kB", 1000), (" 3TB ", 3 * 10**12),
    ],
)  # fmt: skip
def test_parse(text: str, nbytes: int) -> None:
    assert sizes.parse(text) == nbytes


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "2G", "2 GB x", "1e3", "1,5GB", ".5GB", "nan", "inf", "٣GB", "9" * 400]
)
def test_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        sizes.parse(text)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1234, "1.23 kB"), (999_999, "1 MB"), (25_840_808, "25.8 MB"),
        (10**10, "10 GB"), (2 * 10**15, "2,000 TB"),
    ],
)  # fmt: skip
def test_readable(nbytes: int, text: str) -> None:
    assert sizes.readable(nbytes) == text

"""One style for every figure in a text, held over the whole source."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

import cnn_tl
from cnn_tl.core.errors import UsageError
from cnn_tl.core.formatting import (
    certainty,
    check_shares,
    counted,
    parse_bytes,
    parse_duration,
    parse_share,
    percent,
    points,
    rate,
    readable_bytes,
    share_as_typed,
    small,
    unreadable,
)

SOURCES = sorted(Path(cnn_tl.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize(
    ("right", "total", "written"),
    [
        (77, 80, "96.3%"),  # 96.25, where Python's formatting rounds half to even
        (1, 16, "6.3%"),
        (13, 80, "16.3%"),
        (3, 80, "3.8%"),
        (1, 800, "0.1%"),
        (71, 75, "94.7%"),
        (1, 3, "33.3%"),
        (2, 3, "66.7%"),
        (0, 7, "0.0%"),
        (7, 7, "100.0%"),
    ],
)
def test_shares_are_rounded_half_away_from_zero(right: int, total: int, written: str) -> None:
    assert percent(right / total) == written


def test_shares_are_rounded_as_by_hand_for_every_count() -> None:
    for total in range(1, 201):
        for right in range(total + 1):
            tenths = (2 * 1000 * right + total) // (2 * total)
            assert percent(right / total) == f"{tenths // 10}.{tenths % 10}%", (right, total)


@pytest.mark.parametrize(("right", "total"), [(2999, 3000), (9999, 10_000), (999_999, 1_000_000)])
def test_only_all_is_all_and_only_none_is_none(right: int, total: int) -> None:
    assert (percent(right / total), percent(right / total, 0)) == ("99.9%", "99%")
    assert (percent(1 - right / total), percent(1 - right / total, 0)) == ("0.1%", "1%")


def test_no_probability_below_one_is_certain() -> None:
    assert [certainty(value) for value in (1.0, 0.99999, 0.9994, 0.0005, 1e-9, 0.0)] == [
        *("100.0%", "99.9%", "99.9%", "0.1%", "0.0%", "0.0%")
    ]


def test_differences_have_a_sign_and_a_unit() -> None:
    assert points(1 / 80) == "+1.3 points"
    assert points(-1 / 80) == "-1.3 points"
    assert points(-0.0) == points(0.00004) == points(-0.00004) == "+0.0 points"
    assert points(-0.0125, 2) == "-1.25 points"
    assert points(0.05, unit="") == "+5.0"


def test_a_noun_agrees_with_its_number() -> None:
    assert [counted(n, "image") for n in (0, 1, 2, 1000)] == ["0 images", "1 image", "2 images", "1,000 images"]
    assert [counted(n, "class") for n in (1, 3)] == ["1 class", "3 classes"]
    assert [counted(2, noun) for noun in ("epoch", "batch")] == ["2 epochs", "2 batches"]
    assert counted(2, "entry", "entries") == "2 entries"


def test_rows_agree_with_how_many_there_are() -> None:
    assert unreadable(1, 1) == "1 of 1 image could not be read; its row says why"
    assert unreadable(2, 1700) == "2 of 1,700 images could not be read; their rows say why"


def test_a_difference_has_an_exponent_where_it_is_small() -> None:
    values = (1234.5, 23.4, 1.1, 0.0372, 0.01, 8.1e-6, 0.0)
    assert [small(value) for value in values] == ["1,234", "23", "1.1", "0.037", "0.01", "8.1e-06", "0"]


def test_rates_name_what_they_count() -> None:
    assert [rate(value) for value in (7.361, 99.96, 1234.5)] == ["7.36 img/s", "100 img/s", "1,234 img/s"]
    assert rate(1204, "channels") == "1,204 channels/s"
    assert rate(0.25, "stages") == "0.25 stages/s"


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        (r"[0-9}] %(?![\w(])", "94.7% is written without a blank"),
        (r":[+,]?\.\df?%\}", "wording.percent rounds shares"),
        (r"\} img/s", "wording.rate writes rates"),
        (r"[\"']s[\"'] if ", "wording.counted knows plurals"),
        (r"\D1 (images|images|classes|epochs|steps|files|threads)\b", "one is not several"),
    ],
)
def test_no_text_has_a_style_of_its_own(pattern: str, instead: str) -> None:
    found = [
        f"{path.name}: {line.strip()}"
        for path in SOURCES
        if path.name != "wording.py"
        for line in path.read_text("utf-8").splitlines()
        if re.search(pattern, line)
    ]
    assert not found, instead


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("0", 0), ("17", 17), ("17B", 17), ("500MB", 500_000_000), ("2GB", 2 * 10**9), ("2 gb", 2 * 10**9),
        ("1.5GiB", 3 * 2**29), ("1KiB", 1024), ("1kB", 1000), (" 3TB ", 3 * 10**12),
    ],
)  # fmt: skip
def test_a_size_is_parsed(text: str, nbytes: int) -> None:
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize(
    "text", ["", "GB", "-1GB", "2G", "2 GB x", "1e3", "1,5GB", ".5GB", "nan", "inf", "٣GB", "9" * 400]
)
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1234, "1.23 kB"), (999_999, "1 MB"), (25_840_808, "25.8 MB"),
        (10**10, "10 GB"), (2 * 10**15, "2,000 TB"),
    ],
)  # fmt: skip
def test_a_size_is_written(nbytes: int, text: str) -> None:
    assert readable_bytes(nbytes) == text


@pytest.mark.parametrize(
    ("text", "share"), [("5%", 0.05), ("0.05", 0.05), (" 0.5 % ", 0.005), ("99.9%", 0.999), ("1%", 0.01), ("29%", 0.29)]
)
def test_a_share_is_read_with_and_without_its_sign(text: str, share: float) -> None:
    assert parse_share(text, "--max-error") == share


@pytest.mark.parametrize("text", ["5", "1", "0", "0%", "100%", "-5%", "five", "", "%", "5 %%", "1e-2", "nan", "0.0"])
def test_what_is_no_share_is_refused_with_the_name_of_the_option(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--max-error: .* write for example 5% or 0\.05$"):
        parse_share(text, "--max-error")


@pytest.mark.parametrize("text", ["5%", "0.1%", "12.5%", "95%", "0.05%", "29%", "99.9%"])
def test_a_share_is_written_as_it_was_typed(text: str) -> None:
    assert share_as_typed(parse_share(text, "--max-error")) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("5 min", 300), ("1h", 3600), ("1h30m", 5400), ("1.5H", 5400), (" 2m 30s ", 150)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "0s", "-5m", "5m later", "5 hours", "1e3s", "five"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration; write for example 90s, 5m or 1h"):
        parse_duration(text)


@pytest.mark.parametrize("share", [0, 5, 1.0, math.nan, "5%"])
def test_impossible_shares_are_refused(share: Any) -> None:
    check_shares(max_error=0.05, unknown=None)
    with pytest.raises(UsageError, match=r"^max_error: got .*, allowed a share above 0 and below 1, such as 0\.05$"):
        check_shares(max_error=share)

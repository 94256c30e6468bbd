"""Numbers as all messages and tables write them: counts, shares and their differences, rates, durations, sizes.

One style: "1 image", "2,000 images", "96.3%", "+1.3 points", "85 img/s", "5 min 20 s", "1.2 GB". JSON and CSV files
hold plain numbers.
"""

from __future__ import annotations

import math
import re
from decimal import ROUND_HALF_UP, Decimal
from numbers import Real

from cnn_tl.core.errors import UsageError

UNITS = {"images": "img"}
"""Unit -> its abbreviation in a rate."""

_BYTE_UNITS = {"": 1, "B": 1}
_BYTE_UNITS |= {f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)}
_BYTE_UNITS |= {f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", 1)}
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}
_TIME = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(s|min|m|h)", re.ASCII)
_SHARE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(%?)", re.ASCII)
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", re.ASCII)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as "1 image", "2,000 images" or "3 classes"."""
    if number == 1:
        return f"1 {noun}"
    sibilant = noun.endswith(("s", "x", "ch", "sh")) and noun != "epoch"
    return f"{number:,} {plural or noun + ('es' if sibilant else 's')}"


def unreadable(unread: int, total: int) -> str:
    """Return such as "1 of 3 images could not be read; its row says why"."""
    whose = "its row says why" if unread == 1 else "their rows say why"
    return f"{unread:,} of {counted(total, 'image')} could not be read; {whose}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share from 0 to 1 as "96.3%"; only exactly 1 is "100.0%", and only exactly 0 is "0.0%".

    Other shares that would round to one of these get the nearest value that is neither: 2,999 of 3,000 are "99.9%",
    1 of 3,000 is "0.1%".
    """
    step = Decimal(1).scaleb(-digits)
    rounded = _rounded(100, share, digits)
    if 0 < share < 1:
        rounded = min(max(rounded, step), 100 - step)
    return f"{rounded}%"


def certainty(probability: float) -> str:
    """Return a probability as "96.3%": like `percent`, only 1 is "100.0%", but small ones are "0.0%"."""
    return percent(probability if probability >= 0.0005 else 0)


def points(difference: float, digits: int = 1, unit: str = " points") -> str:
    """Return a difference of two shares in percentage points, with its sign: "+1.3 points"."""
    return f"{_rounded(100, difference, digits):+}{unit}"


def small(value: float) -> str:
    """Return a number that may be tiny with two digits, such as "1.1", "0.037" or "8.1e-06"."""
    if value >= 99.5:
        return f"{value:,.0f}"
    return f"{value:.2g}" if value >= 0.01 or not value else f"{value:.1e}"


def rate(per_second: float, unit: str = "images") -> str:
    """Return a throughput, such as "85 img/s", "7.36 img/s" or "1,204 channels/s"."""
    number = f"{per_second:.3g}" if per_second < 100 else f"{per_second:,.0f}"
    return f"{number} {UNITS.get(unit, unit)}/s"


def _rounded(factor: int, value: float, digits: int) -> Decimal:
    """Round half away from zero, as people do: 77 of 80 are 96.25%, so 96.3%; Python's `round` gives 96.2."""
    exact = factor * Decimal(repr(float(value)))  # the shortest decimal that is this float, not its binary expansion
    rounded = exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return rounded if rounded else abs(rounded)  # no "-0.0"


def duration(seconds: float) -> str:
    """Return a duration such as "0.31 s", "4.2 s", "45 s", "5 min 20 s" or "1 h 02 min"."""
    if seconds < 0.005:
        return "under 0.01 s"
    if seconds < 0.995:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def readable_bytes(nbytes: int) -> str:
    """Return a number of bytes such as "1.2 GB" (powers of 1,000)."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= 0.9995 * size:
            return f"{nbytes / size:.3g} {unit}" if nbytes < 999.5 * size else f"{nbytes / size:,.0f} {unit}"
    return f"{nbytes} B"


def parse_share(text: str, name: str) -> float:
    """Return the share of a text such as `5%`, `0.5%` or `0.05`.

    Args:
        name: of the option, for the message.

    Raises:
        UsageError: it is not a share above 0% and below 100%.
    """
    match = _SHARE.fullmatch(text.strip())
    share = float(Decimal(match[1]) / (100 if match[2] else 1)) if match else 0.0
    if not 0 < share < 1:
        raise UsageError(f"{name}: {text!r} is not a share above 0% and below 100%; write for example 5% or 0.05")
    return share


def check_shares(**shares: float | None) -> None:
    """Refuse shares that are not between 0 and 1; None stands for the default.

    Raises:
        UsageError: one line that names the keyword.
    """
    for name, share in shares.items():
        if share is not None and not (isinstance(share, Real) and 0 < share < 1):
            raise UsageError(f"{name}: got {share!r}, allowed a share above 0 and below 1, such as 0.05")


def share_as_typed(share: float) -> str:
    """Return a share that a person has typed, with as few digits as it takes."""
    for digits in range(4):
        if math.isclose(round(share * 100, digits), share * 100):
            return percent(share, digits)
    return percent(share, 4)


def parse_bytes(text: str) -> int:
    """Return the number of bytes in a text such as `500MB`, `2GB`, `1.5GiB` or `0`.

    Raises:
        UsageError: it is not a size.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _BYTE_UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or len(match[1]) > 15:
        raise UsageError(f"{text!r} is not a size; write for example 500MB, 2GB or 1.5GiB")
    return round(float(match[1]) * unit)


def parse_duration(text: str) -> float:
    """Return the seconds of a text such as `90s`, `5m`, `5 min`, `1h30m` or `1.5h`.

    Raises:
        UsageError: it is not a duration above 0.
    """
    seconds, place = 0.0, 0
    while (found := _TIME.match(text.rstrip().casefold(), place)) is not None:
        seconds, place = seconds + float(found[1]) * _SECONDS[found[2]], found.end()
    if place != len(text.rstrip()) or not seconds:
        raise UsageError(f"{text!r} is not a duration; write for example 90s, 5m or 1h")
    return seconds

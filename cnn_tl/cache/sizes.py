"""Numbers of bytes as people write them: 500MB, 2GB, 1.5GiB."""

from __future__ import annotations

import re

from cnn_tl.core.errors import UsageError

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)}
_UNITS |= {f"{letter}IB": 1024**power for power, letter in enumerate("KMGT", 1)}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)", re.ASCII)


def parse(text: str) -> int:
    """Return the number of bytes that a text such as `2GB` means; `0` is one.

    Raises:
        UsageError: it means none.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or len(match[1]) > 15:
        raise UsageError(f"{text!r} is no size; write for example 500MB, 2GB or 1.5GiB")
    return round(float(match[1]) * unit)


def readable(nbytes: int) -> str:
    """Return a number of bytes for people, such as `1.2 GB` (powers of 1,000)."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= 0.9995 * size:
            return f"{nbytes / size:.3g} {unit}" if nbytes < 999.5 * size else f"{nbytes / size:,.0f} {unit}"
    return f"{nbytes} B"

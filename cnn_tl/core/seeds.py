"""Seeds as a function of what they are for, so that no random generator's state is ever saved."""

from __future__ import annotations

import hashlib


def seed_of(*parts: int | str) -> int:
    """Return a 63-bit seed that is a function of its parts, such as (seed, "shuffle", epoch).

    Code that needs random numbers names what they are for. A resumed run therefore draws the same numbers as an
    uninterrupted one, with any number of workers.
    """
    text = "\0".join(str(part) for part in parts)
    encoded = text.encode(errors="surrogatepass")  # a file name that is not UTF-8 holds lone surrogates
    return int.from_bytes(hashlib.sha256(encoded).digest()[:8], "big") >> 1

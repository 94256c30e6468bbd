"""What keeps other sites' pages away from a server on this machine: checks of headers, and headers for browsers."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from email.message import Message
from urllib.parse import urlsplit

HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Tell browsers not to store or sniff an answer, nor to give it to pages of other sites."""


def foreign(method: str, headers: Mapping[str, str] | Message, local: bool) -> str | None:
    """Return why a request comes from elsewhere; None if it does not.

    Args:
        headers: found by lower-case names.
        local: whether the server listens on loopback only. Others can then reach it only through a browser, with a page
            that gives its own host the address 127.0.0.1 (DNS rebinding) or sends a form. Both name their origin.
    """
    if method not in ("GET", "HEAD") and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return "another site's page may not send anything here"
    if local and not _names_loopback(headers.get("host", "")):
        return "this server answers to 127.0.0.1 and localhost only (`cnn-tl serve` has --host)"
    origin = headers.get("origin")
    if local and origin is not None and not _names_loopback(origin.partition("//")[2]):
        return "another site's page may not ask here"
    return None


def _names_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False

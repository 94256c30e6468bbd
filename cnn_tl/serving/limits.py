"""What a request may be, looked at before anything is made of it: where it comes from, how large, how slow."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MEGABYTE = 2**20
BUSY_SECONDS = 1
"""What `Retry-After` says where there is too much to do."""

CROWDED = "crowded"
"""The key of a request's state under which the protocol says that there are too many connections."""

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What each answer tells a browser: nothing from elsewhere is loaded, nothing is framed, guessed at or kept."""


@dataclass(frozen=True)
class Limits:
    """How much one request may ask for, and all together.

    Attributes:
        body: bytes of one request; all that are being read together may be `bodies`.
        body_seconds: how long a request may take to arrive.
        files: images in one request. pixels: of one image; None leaves it at the model's own limit.
        images: that are decoded or wait for the model at once; more are answered with 503.
        heat_maps: that are computed or wait at once.
    """

    body: int = 32 * MEGABYTE
    bodies: int = 512 * MEGABYTE
    body_seconds: float = 30.0
    files: int = 64
    pixels: int | None = None
    images: int = 256
    heat_maps: int = 8


def busy(what: str, **headers: str) -> HTTPException:
    """Return the answer to a request that would be too much now, and perhaps not in a moment."""
    headers = {"Retry-After": str(BUSY_SECONDS), **headers}
    return HTTPException(503, f"too many {what} at the moment; try again", headers)


class Places:
    """A number of places; who finds none free is turned away instead of waiting. For one event loop."""

    def __init__(self, places: int, what: str) -> None:
        self._free, self._places, self._what = places, places, what

    @property
    def taken(self) -> int:
        """How many are taken."""
        return self._places - self._free

    def take(self, number: int) -> None:
        """Take so many places.

        Raises:
            HTTPException: 503, there are not so many.
        """
        if number > self._free:
            raise busy(self._what)
        self._free -= number

    def give_back(self, number: int) -> None:
        """Free them again."""
        self._free += number


class Gate:
    """Stands before the routes. Refuses foreign callers, and lets no body through that is too large or too slow.

    HEAD is asked of the routes as GET; the protocol leaves the body out.

    Args:
        local: the server listens on loopback only. Then a browser is the one way in for others: a page that names its
            own host 127.0.0.1 (DNS rebinding), or sends a form here. Both say where they come from, and are refused.
    """

    def __init__(self, app: ASGIApp, limits: Limits, *, local: bool) -> None:
        self._app, self._limits, self._local = app, limits, local
        self._bodies = Places(limits.bodies, "bytes are arriving")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if refusal := self._refusal(scope, headers):
            answer = JSONResponse({"error": refusal.detail}, refusal.status_code, refusal.headers)
            await answer(scope, receive, with_headers)
            return
        body = _Body(receive, headers, self._limits, self._bodies)
        as_get = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        try:
            await self._app(as_get, body.receive, with_headers)
        finally:
            self._bodies.give_back(body.held)

    def _refusal(self, scope: Scope, headers: Headers) -> HTTPException | None:
        """Return what speaks against the request before it is looked at any closer."""
        if scope.get("state", {}).get(CROWDED):
            return busy("connections are open", Connection="close")
        foreign = _foreign(scope["method"], headers, self._local)
        return HTTPException(403, foreign) if foreign else None


class _Body:
    """The body of one request, counted while it arrives."""

    def __init__(self, receive: Receive, headers: Headers, limits: Limits, bodies: Places) -> None:
        self._receive, self._headers, self._limits, self._bodies = receive, headers, limits, bodies
        self._until = asyncio.get_running_loop().time() + limits.body_seconds
        self._whole = False
        self.held = 0

    async def receive(self) -> Message:
        """Return the next part.

        Raises:
            HTTPException: 413, 408 or 503; the rest of the body is not wanted.
        """
        if self._whole:
            return await self._receive()
        declared = self._headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._limits.body:
            await self._refuse(more="expect" not in self._headers)
        message = await self._next()
        size = len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self.held + size > self._limits.body:
            await self._refuse(more=not self._whole)
        self._bodies.take(size)
        self.held += size
        return message

    async def _next(self) -> Message:
        try:
            async with asyncio.timeout_at(self._until):
                return await self._receive()
        except TimeoutError:
            raise HTTPException(
                408, f"the request took longer than {self._limits.body_seconds:g} s to arrive", {"Connection": "close"}
            ) from None

    async def _refuse(self, *, more: bool) -> None:
        """Say that it is too large; first swallow some of what comes, for many clients listen only when all is sent."""
        swallowed = 0
        while more and swallowed <= 4 * self._limits.body:
            message = await self._next()
            swallowed += len(message.get("body", b""))
            more = message.get("more_body", False)
        largest = f"{self._limits.body / MEGABYTE:g} MB"
        raise HTTPException(413, f"a request may have {largest} at most", {"Connection": "close"})


def _foreign(method: str, headers: Headers, local: bool) -> str | None:
    """Return why the request does not come from this machine or this page; None: nothing speaks against it."""
    if method not in ("GET", "HEAD") and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return "another site's page may not send images here"
    if local and not _names_loopback(headers.get("host", "")):
        return "this server answers to 127.0.0.1 and localhost only; start it with --host to give it another name"
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

"""Limits that are checked before a request is handled: its origin, its size and its speed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cnn_tl.serving import origin

MEGABYTE = 2**20
BUSY_SECONDS = 1
"""`Retry-After` of a busy server."""

CROWDED = "crowded"
"""Key in the state of a request: whether there are too many connections."""

HEADERS = origin.HEADERS | {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
"""Tell browsers to load nothing from elsewhere, and not to frame, sniff or store an answer."""


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of all together.

    Attributes:
        body: bytes of one request. bodies: bytes of all requests that are being received.
        body_seconds: how long a request may take to arrive.
        files: images in one request.
        pixels: of one image; None: the limit of the model.
        images: how many are decoded or wait for the model; further ones are refused with 503.
        heat_maps: how many are computed or wait.
    """

    body: int = 32 * MEGABYTE
    bodies: int = 512 * MEGABYTE
    body_seconds: float = 30.0
    files: int = 64
    pixels: int | None = None
    images: int = 256
    heat_maps: int = 8


def busy(what: str, **headers: str) -> HTTPException:
    """Return the refusal of a request that may succeed a moment later."""
    headers = {"Retry-After": str(BUSY_SECONDS), **headers}
    return HTTPException(503, f"too many {what} at the moment; try again", headers)


class Places:
    """A counter of free places; a request that finds too few is refused instead of waiting. For one event loop."""

    def __init__(self, places: int, what: str) -> None:
        self._free, self._places, self._what = places, places, what

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._places - self._free

    def take(self, number: int) -> None:
        """Take places.

        Raises:
            HTTPException: 503, there are too few.
        """
        if number > self._free:
            raise busy(self._what)
        self._free -= number

    def give_back(self, number: int) -> None:
        """Free places."""
        self._free += number


class Gate:
    """Middleware in front of the routes: refuses foreign callers, and bodies that are too large or too slow.

    The routes see HEAD as GET; the protocol drops the body of the answer.

    Args:
        local: whether the server listens on loopback only. Others can then reach it only through a browser, with a page
            that gives its own host the address 127.0.0.1 (DNS rebinding) or sends a form. Both name their origin, and
            are refused.
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
        """Return why the request is refused by its headers alone; None if it is not."""
        if scope.get("state", {}).get(CROWDED):
            return busy("connections are open", Connection="close")
        elsewhere = origin.foreign(scope["method"], headers, self._local)
        return HTTPException(403, elsewhere) if elsewhere else None


class _Body:
    """The body of one request, measured while it arrives."""

    def __init__(self, receive: Receive, headers: Headers, limits: Limits, bodies: Places) -> None:
        self._receive, self._headers, self._limits, self._bodies = receive, headers, limits, bodies
        self._until = asyncio.get_running_loop().time() + limits.body_seconds
        self._whole = False
        self.held = 0

    async def receive(self) -> Message:
        """Return the next part.

        Raises:
            HTTPException: 413, 408 or 503; the rest of the body is not read.
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
        """Refuse a body that is too large, after reading some, as many clients read only once they have sent all."""
        discarded = 0
        while more and discarded <= 4 * self._limits.body:
            message = await self._next()
            discarded += len(message.get("body", b""))
            more = message.get("more_body", False)
        largest = f"{self._limits.body / MEGABYTE:g} MB"
        raise HTTPException(413, f"a request may have {largest} at most", {"Connection": "close"})

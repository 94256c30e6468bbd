"""The process that listens: its socket, its patience with slow callers, and its end."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from cnn_tl.core.errors import ResourceError, UsageError, printable
from cnn_tl.core.signals import StopRequest, stop_on_signals
from cnn_tl.serving.limits import CROWDED

HEADER_SECONDS = 10.0
"""How long the headers of a request may take; uvicorn itself would wait for ever."""

REST_SECONDS = 5.0
"""How long the rest of a body may take that the answer did not wait for; many clients read only when all is sent."""

CONNECTIONS = 500
"""More at once are answered with 503; the system's usual limit is 1,024 open files."""

STOPPING_SECONDS = 20
"""How long requests that have come may take once a signal asks to stop."""


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that has its address but does not listen yet, so that a wrong one is said before any work.

    Raises:
        UsageError: there is no such host, or it is not this machine.
        ResourceError: the port is in use, or not ours to take.
    """
    where = f"port {port} of {printable(host)}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {printable(host)}: there is no such host; give an address of this machine") from error
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        return listening
    except OSError as error:
        listening.close()
        raise _refusal(error, where, host) from error


def is_loopback(listening: socket.socket) -> bool:
    """Say whether only this machine can reach the socket."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def url(listening: socket.socket) -> str:
    """Return the address to type into a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def serve(app: ASGIApp, listening: socket.socket, on_ready: Callable[[], object], on_stop: Callable[[], None]) -> None:
    """Answer requests until SIGINT or SIGTERM; those that have come are then answered. The second signal ends all.

    Raises:
        Stopped: a signal came; with its exit code.
        ResourceError: another process took the port meanwhile.
    """
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # who sends a broken form is told so
    config = uvicorn.Config(
        app,
        http=_ImpatientProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOPPING_SECONDS,
    )
    try:
        listening.listen(config.backlog)
    except OSError as error:
        raise _refusal(error, f"port {listening.getsockname()[1]}", "") from error
    with stop_on_signals() as stop:
        on_ready()
        _Server(config, stop, on_stop).run(sockets=[listening])
    stop.raise_if_asked("stopped")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, stop: StopRequest, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop, self._on_stop = stop, on_stop

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `stop_on_signals`."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """Hear, ten times a second, whether a signal has come."""
        if self._stop and not self.should_exit:
            self._on_stop()
            self.should_exit = True
        return await super().on_tick(counter)


class _ImpatientProtocol(H11Protocol):
    """Hangs up on whoever does not finish in time what it has begun to send; answers whatever it refuses in JSON."""

    _patience: asyncio.TimerHandle | None = None
    _owed: object = None
    """What the running time is for: a state of the caller's side, IDLE or SEND_BODY."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forgive()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Let the application know of too many connections; uvicorn's own limit would answer in plain text."""
        crowded = len(self.connections) > CONNECTIONS or len(self.tasks) >= CONNECTIONS
        self.app_state = {CROWDED: crowded}
        super().handle_events()

    def send_400_response(self, msg: str) -> None:
        """Answer what h11 cannot read."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            content = json.dumps({"error": "no request that HTTP/1.1 allows, or one with headers over 16 kB"}).encode()
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
            answer = h11.Response(status_code=400, headers=[*headers, ("Connection", "close")], reason="Bad Request")
            for event in (answer, h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def on_response_complete(self) -> None:
        """Wait no longer than `REST_SECONDS` for a body that nobody needs any more."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def _watch(self) -> None:
        """Time what the caller owes; a body that the application still reads is timed there."""
        owed, seconds = self.conn.their_state, HEADER_SECONDS
        if owed is h11.SEND_BODY and self.cycle.response_complete:
            seconds = REST_SECONDS
        elif owed is not h11.IDLE:
            self._forgive()
            return
        if owed is not self._owed:
            self._forgive()
            self._owed, self._patience = owed, self.loop.call_later(seconds, self.transport.close)

    def _forgive(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self._owed = None


def _refusal(error: OSError, where: str, host: str) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return ResourceError(f"{where} is in use; choose another one with --port, or any free one with --port 0")
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"--host {printable(host)} is no address of this machine")
    if error.errno == errno.EACCES:
        return ResourceError(f"{where} is not yours to take; choose one over 1023 with --port")
    return ResourceError(f"{where} cannot be used: {error.strerror}")

"""The process that listens: its socket, its patience with slow callers, and its end."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from cnn_tl.errors import ResourceError, UsageError, printable
from cnn_tl.runtime import StopRequest, stop_on_signals

HEADER_SECONDS = 10.0
"""How long the headers of a request may take; uvicorn itself would wait for ever."""

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
        limit_concurrency=CONNECTIONS,
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
    """Hangs up on whoever does not finish the headers of a request in time."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forgive()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._forgive()
        elif self._patience is None:
            self._patience = self.loop.call_later(HEADER_SECONDS, self._hang_up)

    def _forgive(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _hang_up(self) -> None:
        self._patience = None
        if self.conn.their_state is h11.IDLE:
            self.transport.close()


def _refusal(error: OSError, where: str, host: str) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return ResourceError(f"{where} is in use; choose another one with --port, or any free one with --port 0")
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"--host {printable(host)} is no address of this machine")
    if error.errno == errno.EACCES:
        return ResourceError(f"{where} is not yours to take; choose one over 1023 with --port")
    return ResourceError(f"{where} cannot be used: {error.strerror}")

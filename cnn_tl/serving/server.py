"""The server process: its socket, time limits for slow clients, and shutdown."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from cnn_tl.core.signals import StopRequest, stop_on_signals
from cnn_tl.serving.limits import CROWDED
from cnn_tl.serving.sockets import refusal

HEADER_SECONDS = 10.0
"""How long the headers of a request may take; uvicorn has no such limit."""

REST_SECONDS = 5.0
"""How long the rest of a body may take after the answer; many clients read only once they have sent all."""

CONNECTIONS = 500
"""Further ones are refused with 503; the usual limit of a system is 1,024 open files."""

STOPPING_SECONDS = 20
"""How long running requests may take after a signal to stop."""


def serve(app: ASGIApp, listening: socket.socket, on_ready: Callable[[], object], on_stop: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM, then finish the running requests; a second signal ends the process at once.

    Raises:
        Stopped: a signal came; it has the exit code.
        ResourceError: another process took the port.
    """
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the client is told of a broken form
    config = uvicorn.Config(
        app,
        http=_TimeLimitedProtocol,
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
        raise refusal(error, f"port {listening.getsockname()[1]}", "") from error
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
        """Check ten times a second whether a signal has come."""
        if self._stop and not self.should_exit:
            self._on_stop()
            self.should_exit = True
        return await super().on_tick(counter)


class _TimeLimitedProtocol(H11Protocol):
    """Disconnects clients that do not finish sending in time; refuses in JSON."""

    _timer: asyncio.TimerHandle | None = None
    _awaited: object = None
    """What the timer waits for: a state of the client, IDLE or SEND_BODY."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Tell the application if there are too many connections; the limit of uvicorn answers in plain text."""
        crowded = len(self.connections) > CONNECTIONS or len(self.tasks) >= CONNECTIONS
        self.app_state = {CROWDED: crowded}
        super().handle_events()

    def send_400_response(self, msg: str) -> None:
        """Refuse what h11 cannot parse."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            content = json.dumps({"error": "not a valid HTTP/1.1 request, or its headers exceed 16 kB"}).encode()
            headers = [("Content-Type", "application/json"), ("Content-Length", str(len(content)))]
            answer = h11.Response(status_code=400, headers=[*headers, ("Connection", "close")], reason="Bad Request")
            for event in (answer, h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def on_response_complete(self) -> None:
        """Wait at most `REST_SECONDS` for the rest of a body that is not needed any more."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self._watch()

    def _watch(self) -> None:
        """Start the timer for what the client has to send; a body that the application reads is timed there."""
        awaited, seconds = self.conn.their_state, HEADER_SECONDS
        if awaited is h11.SEND_BODY and self.cycle.response_complete:
            seconds = REST_SECONDS
        elif awaited is not h11.IDLE:
            self._stop_timer()
            return
        if awaited is not self._awaited:
            self._stop_timer()
            self._awaited, self._timer = awaited, self.loop.call_later(seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._awaited = None

"""Counters of a server, in the text format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server and of its process (memory, CPU time, open files)."""

    def __init__(self) -> None:
        self.registry = to = CollectorRegistry()
        ProcessCollector(registry=to)
        self.requests = Counter("cnn_tl_requests", "Requests answered.", ["path", "status"], registry=to)
        self.seconds = Histogram(
            "cnn_tl_request_seconds", "Seconds from headers to answer.", ["path"], buckets=_SECONDS, registry=to
        )
        self.images = Counter("cnn_tl_images", "Images, answered or broken.", ["outcome"], registry=to)
        self.verdicts = Counter("cnn_tl_verdicts", "Images by what was said of them.", ["verdict"], registry=to)
        self.batch = Histogram("cnn_tl_batch_size", "Images per batch.", buckets=_SIZES, registry=to)
        self.waiting = Gauge("cnn_tl_waiting_images", "Images being decoded or waiting for the model.", registry=to)


class Measured:
    """Middleware that counts and times requests; unknown paths count as `other`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: Collection[str]) -> None:
        self._app, self._metrics, self._paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"
        began = time.perf_counter()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            self._metrics.requests.labels(path, str(status)).inc()
            self._metrics.seconds.labels(path).observe(time.perf_counter() - began)

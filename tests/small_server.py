"""Shared by the serving tests: a model that tells dark from bright images, and a process that serves it."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.abstention.threshold_table import Confidence, Limit, ThresholdTable
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.explaining.methods import heat_maps
from cnn_tl.inference.classifier import Classifier

for _package in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "httpx2"):
    pytest.importorskip(_package, reason="the extra cnn-tl[serve] or httpx2 is not installed")

import httpx2 as httpx  # noqa: E402, F401 - for the tests

from cnn_tl.serving import routes, server, sockets  # noqa: E402
from cnn_tl.serving.limits import Limits  # noqa: E402
from cnn_tl.serving.service import Service  # noqa: E402

SPEC = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
CLASSES = ("dark", "<b>light</b>", "grün")


def by_brightness(pixels_NHWC: Any) -> Any:
    """Logits that grow smoothly with the mean of an image's upper left quarter."""
    light_N = pixels_NHWC[:, :8, :8].mean(axis=(1, 2, 3)) / 255
    return np.stack([4 - 8 * light_N, 8 * light_N - 4, 0 * light_N], axis=1).astype(np.float32)


def classifier(logits: Any = by_brightness) -> Classifier:
    return Classifier(CLASSES, SPEC, logits)


def judging(outputs: Any = by_brightness) -> Classifier:
    """Return a classifier that knows sets, promises at most 5% wrong from 90% on, and calls medium grey unknown."""

    def with_distance(pixels_NHWC: Any) -> Any:
        logits_NK = outputs(pixels_NHWC)
        grey_N = np.abs(logits_NK[:, 0]) < 0.4
        return np.concatenate([logits_NK, np.where(grey_N, 3.0, 0.5)[:, None]], 1).astype(np.float32)

    confidences = (Confidence(0.05, 0.01, 0.9, 0.8, ""),)
    table = ThresholdTable("training", 100, (0.2, 0.2, 0.2), (Limit(0.01, 1.0),), confidences)
    return Classifier(CLASSES, SPEC, with_distance, thresholds=table)


def service(limits: Limits | None = None, logits: Any = by_brightness, **options: Any) -> Service:
    heat = "occlusion", lambda pixels, index: heat_maps.occlusion_map_of_pixels(by_brightness, pixels, index, SPEC)
    settings = {"batch_size": 4, "max_wait": 0.002, "workers": 2} | options
    return Service("small", classifier(logits), heat, limits or Limits(), **settings)


def image(value: int = 0, kind: str = "PNG", side: int = 20) -> bytes:
    """Return an image whose upper left quarter has a grey value; the rest is noise."""
    pixels = np.random.default_rng(value).integers(0, 255, (side, side, 3), np.uint8)
    pixels[: side // 2, : side // 2] = value
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def main() -> None:
    """Serve the model; the arguments are seconds that each batch takes, then header and body seconds."""
    from cnn_tl.core.errors import CnnTlError

    pause, server.HEADER_SECONDS, body_seconds = map(float, sys.argv[1:4])

    def slow(pixels_NHWC: Any) -> Any:
        time.sleep(pause)
        return by_brightness(pixels_NHWC)

    listening = sockets.bind("127.0.0.1", 0)
    made = service(Limits(body=2**20, body_seconds=body_seconds, images=64), slow)
    try:
        url = sockets.url(listening)
        server.serve(routes.build(made, local=True), listening, lambda: os.write(1, f"{url}\n".encode()), lambda: None)
    except CnnTlError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
    finally:
        made.close()


@contextmanager
def serving(pause: float = 0, header_seconds: float = 10, body_seconds: float = 30) -> Iterator[Served]:
    """Run the server in a process of its own, and stop it unless the body has."""
    code = "import small_server; small_server.main()"
    command = [sys.executable, "-c", code, str(pause), str(header_seconds), str(body_seconds)]
    with running(command) as served:
        yield served


class Served:
    """A server in another process: its address and the process."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process, self.url = process, url
        self.port = int(url.rstrip("/").rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; return the exit code and stderr."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said


@contextmanager
def running(command: list[str], **options: Any) -> Iterator[Served]:
    """Run a command that serves; the body starts once its first line has named the URL."""
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")])}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+/", line)
        assert found, (line, process.communicate(timeout=60))
        yield Served(process, found[0])
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()

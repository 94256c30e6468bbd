"""`cnn-tl serve`: a trained model behind HTTP, with a web page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cnn_tl.cli.options import AnyModel, BatchSize, MaxError, WhereModelRuns, WithheldUnknown, note_unused_gpu
from cnn_tl.cli.terminal import console
from cnn_tl.core.cpu import default_workers
from cnn_tl.core.device import DeviceName
from cnn_tl.core.errors import ArtefactError, ResourceError, printable
from cnn_tl.core.formatting import counted, parse_share

if TYPE_CHECKING:
    from socket import socket

    from cnn_tl.serving.limits import Limits
    from cnn_tl.serving.service import Service


def serve(
    model: AnyModel,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 opens it to the whole network.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 8000,
    batch_size: BatchSize = 16,
    max_wait: Annotated[
        float, typer.Option(min=0, max=1000, help="Milliseconds that an image waits for others to fill its batch.")
    ] = 5,
    queue: Annotated[int, typer.Option(min=1, help="Images that may wait; further ones are refused with 503.")] = 256,
    max_files: Annotated[
        int, typer.Option(min=1, max=1000, help="Images per request, at most as many as --queue.")
    ] = 64,
    max_mb: Annotated[float, typer.Option(min=0.001, max=1e6, help="Megabytes per request.")] = 32,
    max_pixels: Annotated[
        int | None, typer.Option(min=1, help="Pixels per image.", show_default="the model's own limit")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Threads that read images.", show_default="one per core")
    ] = None,
    max_error: MaxError = None,
    unknown: WithheldUnknown = None,
    device: WhereModelRuns = "auto",
) -> None:
    """Serve a model over HTTP: POST /predict, POST /explain, GET /health, /metrics, /openapi.json, and a page at /.

    The answers are those of predict. Ctrl-C or SIGTERM stops it, once the running requests are answered.
    """
    require_packages()
    from cnn_tl.serving import sockets
    from cnn_tl.serving.limits import MEGABYTE, Limits

    promised = None if max_error is None else parse_share(max_error, "--max-error")
    foreign = None if unknown is None else parse_share(unknown, "--unknown")
    _check_is_there(model)
    whole = model.resolve()
    name = f"{whole.parent.name}/{whole.name}" if whole.stem == "model" else whole.name
    body = int(max_mb * MEGABYTE)
    at_once = min(max_files, queue)  # a larger request could never be answered
    limits = Limits(body, max(16 * body, 512 * MEGABYTE), files=at_once, pixels=max_pixels, images=queue)
    note_unused_gpu(model, device)
    with sockets.bind(host, port) as listening:  # a wrong address fails before the seconds that loading takes
        service = _service(
            model,
            name,
            device,
            limits,
            batch_size=batch_size,
            max_wait=max_wait / 1000,
            workers=workers or default_workers(),
            max_error=promised,
            unknown=foreign,
        )
        try:
            _serve(service, listening)
        finally:
            service.close()


def _service(model: Path, name: str, device: DeviceName, limits: Limits, **settings: Any) -> Service:
    from cnn_tl.cli.terminal.bars import TerminalObserver
    from cnn_tl.explaining import one_heat_map
    from cnn_tl.inference.loading import load
    from cnn_tl.serving.service import Service

    with TerminalObserver().task("loading the model", None):
        classifier = load(model, device)
        service = Service(name, classifier, one_heat_map.load(model, classifier, device), limits, **settings)
        service.warm_up()
    return service


def _serve(service: Service, listening: socket) -> None:
    """Print the address, and serve until a signal comes."""
    from cnn_tl.serving import routes, server, sockets

    local = sockets.is_loopback(listening)

    def say_where() -> None:
        where = sockets.url(listening)
        if not local:
            console.warn(f"anyone on the network can reach {where}; without --host only this machine can")
        classes = len(service.classifier.classes)
        console.say(f"{printable(service.name)} ({counted(classes, 'class')}) answers at {where}; Ctrl-C stops it")
        console.out.file.flush()

    server.serve(routes.build(service, local=local), listening, say_where, service.begin_stopping)


def require_packages() -> None:
    """Check that the packages for serving are installed.

    Raises:
        ResourceError: fastapi, uvicorn, python-multipart or prometheus-client is missing.
    """
    from importlib.util import find_spec

    needed = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
    needed |= {"prometheus_client": "prometheus-client"}
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        raise ResourceError(f"serve needs {', '.join(missing)}: pip install {' '.join(missing)}")


def _check_is_there(model: Path) -> None:
    from cnn_tl.inference.loading import is_onnx
    from cnn_tl.networks import bundle

    if not is_onnx(model):
        bundle.find(model)
    elif not model.is_file():
        raise ArtefactError(f"{printable(model)} cannot be read: there is no such file")

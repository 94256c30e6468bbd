"""Listening sockets and their addresses; `serve` and `review` share them, and only the former needs uvicorn."""

from __future__ import annotations

import errno
import ipaddress
import socket

from cnn_tl.core.errors import ResourceError, UsageError, printable


def bind(host: str, port: int) -> socket.socket:
    """Bind a socket without listening yet, so that a wrong address fails before anything is loaded.

    Raises:
        UsageError: there is no such host, or it is not this machine.
        ResourceError: the port is in use or not permitted.
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
        raise refusal(error, where, host) from error


def is_loopback(listening: socket.socket) -> bool:
    """Say whether only this machine can reach the socket."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def url(listening: socket.socket) -> str:
    """Return the address to type into a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def refusal(error: OSError, where: str, host: str) -> Exception:
    """Return what to raise for an address that cannot be listened on."""
    if error.errno == errno.EADDRINUSE:
        return ResourceError(f"{where} is in use; choose another one with --port, or any free one with --port 0")
    if error.errno == errno.EADDRNOTAVAIL:
        return UsageError(f"--host {printable(host)} is not an address of this machine")
    if error.errno == errno.EACCES:
        return ResourceError(f"{where} needs more permissions; choose one over 1023 with --port")
    return ResourceError(f"{where} cannot be used: {error.strerror}")

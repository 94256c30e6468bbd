"""Answers the page of a review: only this machine, only its own page, only the images of the folder, by their number.

Everything lies below a secret path, which is in the address that is printed: neither other users of the machine nor
pages of other sites know it.
"""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast, get_args

from cnn_tl.core.errors import BadImageError, CnnTlError, UsageError
from cnn_tl.core.signals import stop_on_signals
from cnn_tl.doctor.decisions import Choice
from cnn_tl.pages.page import render
from cnn_tl.serving import sockets
from cnn_tl.serving.origin import HEADERS, foreign
from cnn_tl.serving.review.review import Review

MOST_BYTES = 2**20
"""Of the body of a request: the places of a very large group of twins."""

IDLE_SECONDS = 30
"""How long a connection may wait, and how long a body may take to arrive."""

_TICK_SECONDS = 0.2


class Server(ThreadingHTTPServer):
    """The server of one review.

    Args:
        listening: a bound socket of this machine's own address.
        title: of the page.
    """

    daemon_threads = True

    def __init__(self, listening: socket.socket, review: Review, title: str) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.review, self.title = review, title
        self.secret = secrets.token_urlsafe(12)
        self.timeout = _TICK_SECONDS
        self.server_activate()

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"{sockets.url(self.socket)}{self.secret}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""

    def run(self, on_ready: Callable[[], object]) -> None:
        """Answer until SIGINT or SIGTERM, then finish the decision that is being written.

        Raises:
            Stopped: a signal came.
        """
        with stop_on_signals() as stop:
            on_ready()
            while not stop:
                self.handle_request()
            self.review.close()
        stop.raise_if_asked("stopped")


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    server_version, sys_version = "cnn-tl", ""

    def do_GET(self) -> None:
        """Answer with the page, a suspect or an image."""
        self._answer_with(self._get)

    def do_POST(self) -> None:
        """Record a decision or take one back."""
        self._answer_with(self._post)

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def _answer_with(self, action: Callable[[list[str]], None]) -> None:
        """Answer a request from our own page; refuse others."""
        if elsewhere := foreign(self.command, self.headers, local=True):
            self._refuse(HTTPStatus.FORBIDDEN, elsewhere)
            return
        first, *rest = self.path.lstrip("/").split("/")
        if not secrets.compare_digest(first.encode(), self.server.secret.encode()):
            self._refuse(HTTPStatus.NOT_FOUND, "open the address that cnn-tl review has printed")
            return
        try:
            action(rest)
        except BadImageError as error:
            self._refuse(HTTPStatus.UNPROCESSABLE_ENTITY, error.reason)
        except UsageError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
        except CnnTlError as error:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, str(error))

    def _get(self, parts: list[str]) -> None:
        review = self.server.review
        match parts:
            case [""]:
                data = {"classes": review.classes, "first": review.first()}
                page = render("review.html", title=self.server.title, data=data)
                self._answer(page.encode("utf-8", "backslashreplace"), "text/html; charset=utf-8")
            case ["suspects", number]:
                self._answer_json(review.suspect(_whole(number)))
            case ["images", size, number]:
                image = review.image(_whole(number), size)
                self._answer(image, "image/webp" if image[8:12] == b"WEBP" else "image/jpeg")
            case _:
                self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self, parts: list[str]) -> None:
        asked = self._body()
        review = self.server.review
        if parts == ["undo"]:
            self._answer_json(review.undo())
        elif parts == ["decisions"]:
            self._answer_json(review.decide(*_decision(asked)))
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is no such page")

    def _body(self) -> dict[str, Any]:
        """Return the JSON object that was sent.

        Raises:
            UsageError: it is none, or too large.
        """
        length = self.headers.get("content-length", "")
        self.close_connection = True  # unless the body is read as a whole
        if self.headers.get_content_type() != "application/json" or not length.isdecimal() or int(length) > MOST_BYTES:
            raise UsageError("send a JSON object of at most a megabyte, with its length")
        data = self.rfile.read(int(length))
        try:
            asked = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise UsageError("this is no JSON") from error
        if not isinstance(asked, dict):
            raise UsageError("this is no JSON object")
        self.close_connection = False
        return asked

    def _answer_json(self, value: dict[str, Any]) -> None:
        self._answer(json.dumps(value).encode(), "application/json")

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True  # the body of a request may be unread
        self._answer(json.dumps({"error": " ".join(why.split())}).encode(), "application/json", status)

    def _answer(self, content: bytes, kind: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        self.send_response(status)
        for name, value in (HEADERS | {"Content-Security-Policy": "frame-ancestors 'none'"}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)


def _decision(asked: dict[str, Any]) -> tuple[int, Choice, int | None, list[int]]:
    """Return the arguments of `Review.decide` that were sent.

    Raises:
        UsageError: they are none.
    """
    number, choice, label, marked = (asked.get(key) for key in ("suspect", "choice", "label", "marked"))
    marked = [] if marked is None else marked
    whole = isinstance(marked, list) and all(type(one) is int for one in [number, *marked])
    if not whole or choice not in get_args(Choice) or not (label is None or type(label) is int):
        raise UsageError("a decision has a suspect, a choice, and perhaps a label and marked places")
    return cast(int, number), cast(Choice, choice), label, marked


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > 9:
        raise UsageError("there is no such number")
    return int(text)

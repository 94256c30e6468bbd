"""A real process on loopback: slow and broken callers, hang-ups, signals, and addresses that cannot be had."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from small_server import Served, httpx, image, running, serving

from cnn_tl.core.errors import ResourceError, UsageError
from cnn_tl.serving import sockets


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(header_seconds=1.0, body_seconds=1.0) as one:
        yield one


@pytest.fixture(scope="module")
def strict() -> Iterator[Served]:
    """Yield a server for few connections, each with one second for a body that nobody needs."""
    limits = "server.CONNECTIONS, server.REST_SECONDS = 8, 1.0"
    code = f"import small_server; from cnn_tl.serving import server; {limits}; small_server.main()"
    with running([sys.executable, "-c", code, "0", "10", "30"]) as one:
        yield one


def head(served: Served, length: int, *more: str) -> bytes:
    lines = ["POST /predict HTTP/1.1", f"Host: 127.0.0.1:{served.port}", f"Content-Length: {length}"]
    return "\r\n".join([*lines, "Content-Type: multipart/form-data; boundary=b", *more, "", ""]).encode()


def body(content: bytes) -> bytes:
    disposition = b'Content-Disposition: form-data; name="files"; filename="a.png"'
    return b"--b\r\n" + disposition + b"\r\n\r\n" + content + b"\r\n--b--\r\n"


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def assert_answers(served: Served) -> None:
    answer = httpx.post(f"{served.url}predict", files={"files": ("a.png", image(0))}, timeout=30)
    assert (answer.status_code, answer.json()[0]["label"]) == (200, "dark")
    assert served.process.poll() is None


def test_slow_headers_are_hung_up_on(served: Served) -> None:
    for first in (b"", b"POST /predict HTTP/1.1\r\nHost: x\r\n"):
        with served.connect() as connection:
            connection.sendall(first)
            began = time.monotonic()
            assert read_all(connection) == b""
            assert time.monotonic() - began < 10
    assert_answers(served)


def test_a_slow_body_is_408(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(head(served, 1000) + b"--b\r\n")
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"took longer than 1 s" in answer
    assert_answers(served)


def drip(connection: socket.socket, piece: bytes) -> bytes:
    """Send a piece ten times a second until the server hangs up; return what it said."""
    received, until = b"", time.monotonic() + 10
    connection.settimeout(0.1)
    while time.monotonic() < until:
        try:
            connection.sendall(piece)
            if not (part := connection.recv(65536)):
                return received
            received += part
        except TimeoutError:
            continue
        except OSError:
            return received
    return pytest.fail(f"the connection is still open after {received!r}")


LONG, CHUNKED = "Content-Length: 100000", "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("first", "headers", "content", "piece", "code"),
    [
        ("GET /health", [LONG], b"", b"x", 200),
        ("GET /health", [CHUNKED], b"", b"1\r\nx\r\n", 200),
        ("HEAD /health", [LONG], b"", b"x", 200),
        ("POST /nope", [LONG], b"", b"x", 404),
        ("POST /predict", [LONG, "Origin: https://evil.example"], b"", b"x", 403),
        ("POST /predict", [LONG, "Content-Type: text/plain"], b"", b"x", 415),
        ("POST /predict", [LONG, "Content-Type: multipart/form-data; boundary=b"], b"rubbish", b"x", 400),
    ],
)
def test_a_body_that_nobody_needs_does_not_hold_the_connection(
    strict: Served, first: str, headers: list[str], content: bytes, piece: bytes, code: int
) -> None:
    with strict.connect() as connection:
        connection.sendall("\r\n".join([f"{first} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode() + content)
        assert drip(connection, piece).startswith(f"HTTP/1.1 {code} ".encode())


def test_a_body_that_nobody_needs_may_still_arrive(strict: Served) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
    with strict.connect() as connection:
        for sent in (request, b"later" + request + b"later", request):
            connection.sendall(sent)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert (answer.status, json.loads(answer.read())["status"]) == (200, "ok")
            time.sleep(0.7)  # the third is sent when the time of the first is over


def test_more_connections_than_there_may_be_are_503(strict: Served) -> None:
    idle = [strict.connect() for _ in range(8)]
    answer = httpx.get(f"{strict.url}health")
    for one in idle:
        one.close()
    assert (answer.status_code, answer.headers["retry-after"], answer.headers["connection"]) == (503, "1", "close")
    assert answer.json() == {"error": "too many connections are open at the moment; try again"}
    until = time.monotonic() + 20
    while (metrics := httpx.get(f"{strict.url}metrics")).status_code == 503:
        assert time.monotonic() < until
    assert 'cnn_tl_requests_total{path="/health",status="503"} 1.0' in metrics.text


def test_head_is_get_without_a_body(served: Served) -> None:
    with httpx.Client(base_url=served.url) as client:  # one connection: a body would be taken for the next answer
        for path, code in (("/", 200), ("/health", 200), ("/nope", 404), ("/predict", 405)):
            got, asked = client.get(path), client.head(path)
            assert (got.status_code, asked.status_code, asked.content) == (code, code, b"")
            assert asked.headers["content-length"] == got.headers["content-length"] == str(len(got.content))


def test_huge_headers_and_rubbish_are_400(served: Served) -> None:
    endless = head(served, 0, f"X: {'y' * 70_000}").rstrip()
    for sent in (endless, b"\x16\x03\x01\x02rubbish\r\n\r\n"):
        with served.connect() as connection:
            connection.sendall(sent)
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert set(json.loads(answer.partition(b"\r\n\r\n")[2])) == {"error"}
    assert_answers(served)


def test_too_large_a_body_is_413_also_for_who_sends_all_before_reading(served: Served) -> None:
    content = body(b"x" * (3 * 2**20 // 2))
    with served.connect() as connection:
        connection.sendall(head(served, len(content)) + content)
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")
    with served.connect() as connection:  # it asks first, as curl does
        connection.sendall(head(served, 2**40, "Expect: 100-continue"))
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")
    assert_answers(served)


def chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


@pytest.mark.parametrize("chunks", [17, 200], ids=["a little", "without end"])
def test_too_large_a_body_is_413_also_in_chunks_that_declare_no_length(served: Served, chunks: int) -> None:
    """A limit that only looks at Content-Length is none: whoever leaves it out could fill the memory."""
    lines = ["POST /predict HTTP/1.1", f"Host: 127.0.0.1:{served.port}", "Transfer-Encoding: chunked"]
    first = "\r\n".join([*lines, "Content-Type: multipart/form-data; boundary=b", "", ""]).encode()
    whole = body(b"x" * chunks * 2**16)
    pieces = [chunk(whole[start : start + 2**16]) for start in range(0, len(whole), 2**16)]
    if chunks == 17:
        pieces.append(chunk(b""))
    with served.connect() as connection:
        with contextlib.suppress(ConnectionError):  # where it hangs up before all is sent
            connection.sendall(first + b"".join(pieces))
        assert read_all(connection).startswith(b"HTTP/1.1 413 ")
    assert_answers(served)


def test_a_body_in_chunks_that_is_small_enough_is_answered(served: Served) -> None:
    lines = ["POST /predict HTTP/1.1", f"Host: 127.0.0.1:{served.port}", "Transfer-Encoding: chunked"]
    lines += ["Connection: close", "Content-Type: multipart/form-data; boundary=b", "", ""]
    content = body(image(0))
    pieces = [chunk(content[start : start + 100]) for start in range(0, len(content), 100)]
    with served.connect() as connection:
        connection.sendall("\r\n".join(lines).encode() + b"".join([*pieces, chunk(b"")]))
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_clients_that_hang_up_leave_nothing_behind(served: Served) -> None:
    content = body(image(0))
    whole = head(served, len(content)) + content
    for sent in (head(served, len(content)), whole[:-50], whole):
        for _ in range(20):
            with served.connect() as connection:
                connection.sendall(sent)
    until = time.monotonic() + 20
    while "cnn_tl_waiting_images 0.0" not in httpx.get(f"{served.url}metrics").text:
        assert time.monotonic() < until
    assert_answers(served)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_what_has_come_be_answered(number: signal.Signals) -> None:
    with serving(pause=1.0) as served:
        answers: list[int] = []

        def ask() -> None:
            answers.append(httpx.post(f"{served.url}predict", files={"files": image()}, timeout=30).status_code)

        threads = [threading.Thread(target=ask) for _ in range(6)]  # two batches
        for thread in threads:
            thread.start()
        while "cnn_tl_waiting_images 6.0" not in httpx.get(f"{served.url}metrics").text:
            time.sleep(0.01)
        assert served.stop(number) == (128 + number, "stopped\n")
        for thread in threads:
            thread.join()
        assert answers == [200] * 6
        with pytest.raises(OSError, match="refused"):
            served.connect()


def test_addresses_that_cannot_be_had() -> None:
    with sockets.bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ResourceError, match=f"port {port} of 127.0.0.1 is in use; .*--port 0"):
            sockets.bind("127.0.0.1", port)
    for host, said in (("no.such.host.invalid", "no such host"), ("192.0.2.1", "not an address of this machine")):
        with pytest.raises(UsageError, match=said):
            sockets.bind(host, 0)


def test_which_addresses_only_this_machine_reaches() -> None:
    for host, local in (("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)):
        with sockets.bind(host, 0) as listening:
            assert sockets.is_loopback(listening) is local
            assert sockets.url(listening).startswith("http://")


def test_the_command_refuses_before_it_loads(
    cli: Callable[..., Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cnn_tl.inference import loading

    monkeypatch.setattr(loading, "load", lambda *_: pytest.fail("the model was loaded"))
    (tmp_path / "config.json").write_text(json.dumps({}))
    with sockets.bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        for arguments, code, said in (
            ([tmp_path, "--port", port], 5, f"port {port} of 127.0.0.1 is in use"),
            ([tmp_path, "--host", "no.such.host.invalid"], 2, "no such host"),
            ([tmp_path / "absent"], 4, "does not exist"),
            ([tmp_path / "absent.onnx"], 4, "no such file"),
            ([tmp_path, "--port", 70000], 2, "--port"),
            ([tmp_path, "--max-error", "200%"], 2, "--max-error: '200%' is not a share"),
        ):
            done = cli("serve", *arguments)
            assert (done.code, done.err.count("\n"), done.out) == (code, 1, "")
            assert said in done.err


def test_a_missing_package_is_one_line(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    done = cli("serve", "run")
    assert done.code == 5
    assert done.err == "error: serve needs uvicorn: pip install uvicorn\n"

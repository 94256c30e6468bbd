"""What the server answers, to whom, and what it refuses; without a browser."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
from examined_folder import CLASSES, excluded, rows, write_examined_folder
from PIL import Image

from cnn_tl.doctor.decisions import Decisions
from cnn_tl.serving import sockets
from cnn_tl.serving.review.review import Review
from cnn_tl.serving.review.server import MOST_BYTES, Server
from cnn_tl.serving.review.suspects import read

JSON = {"Content-Type": "application/json"}


class Client:
    """Asks a server that runs in a thread."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.folder, self.server = folder, server
        self.port = server.socket.getsockname()[1]

    def send(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> HTTPResponse:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, path, data, headers or {})
        answer = connection.getresponse()
        answer.text = answer.read()  # type: ignore[attr-defined]
        connection.close()
        return answer

    def ask(self, path: str, body: Any = None, status: int = 200) -> Any:
        method = "GET" if body is None else "POST"
        answer = self.send(method, f"/{self.server.secret}/{path}", body, {} if body is None else JSON)
        assert answer.status == status, answer.text  # type: ignore[attr-defined]
        return json.loads(answer.text)  # type: ignore[attr-defined]

    def decide(self, suspect: int, choice: str, status: int = 200, **more: Any) -> Any:
        return self.ask("decisions", {"suspect": suspect, "choice": choice, **more}, status)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    folder = write_examined_folder(tmp_path)
    over = threading.Event()
    with sockets.bind("127.0.0.1", 0) as listening:
        review = Review(read(folder), Decisions(folder))
        server = Server(listening, review, "<i>findings</i>")

        def run() -> None:
            while not over.is_set():
                server.handle_request()

        thread = threading.Thread(target=run)
        thread.start()
        yield Client(folder, server)
        over.set()
        thread.join()
        review.close()


def test_the_page_holds_what_it_needs_and_escapes_names(client: Client) -> None:
    answer = client.send("GET", f"/{client.server.secret}/")
    page = answer.text.decode()  # type: ignore[attr-defined]
    assert answer.status == 200
    assert "<i>findings" not in page
    assert "<b>owl" not in page
    assert "default-src 'none'; img-src 'self' data:; connect-src 'self';" in page
    assert "unsafe" not in page
    assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Python" not in answer.headers["Server"]


def test_a_whole_review(client: Client) -> None:
    assert client.ask("suspects/0")["progress"]["total"] == 9
    after = client.decide(0, "relabel", label=2, marked=[0])  # the copy in test becomes an owl, the other one goes
    assert (after["number"], after["said"]) == (1, "train/cat/a.png and 1 more: 1 excluded, 1 relabelled to <b>owl</b>")
    client.decide(1, "exclude", marked=[0])
    client.decide(2, "relabel", label=1)
    client.decide(3, "keep")
    client.decide(4, "exclude")
    client.decide(5, "relabel", label=1)  # its own class: kept
    client.decide(6, "keep", marked=[0])
    client.decide(8, "exclude")
    last = client.decide(7, "keep")
    assert (last["number"], last["progress"]["decided"], last["outcome"]) == (7, 9, "kept")
    assert excluded(client.folder) == [
        "train/cat/a.png",
        "train/dog/b.png",
        "train/cat/label 2.png",
        "train/cat/odd_1.png",
    ]
    assert rows(client.folder / "relabel.csv") == [["test/dog/a.png", CLASSES[2]], ["train/cat/label 0.png", "dog"]]
    assert last["progress"]["command"].count("--set") == 2
    undone = client.ask("undo", {})
    assert (undone["number"], undone["outcome"], undone["progress"]["decided"]) == (7, None, 8)
    assert [one["outcome"] for one in client.ask("suspects/6")["images"]] == ["kept"] * 3
    assert [client.ask("suspects/0")["marked"], client.ask("suspects/6")["marked"]] == [[0], []]


def test_what_the_files_settle_is_decided_already(tmp_path: Path) -> None:
    folder = write_examined_folder(tmp_path)
    (folder / "exclude.txt").write_text("train/cat/c0.png\ntrain/cat/c2.png\ntrain/dog/b.png\ntrain/cat/odd_0.png\n")
    (folder / "relabel.csv").write_text("image,label\ntrain/cat/label 0.png,dog\n")
    review = Review(read(folder), Decisions(folder))
    assert (review.decided, review.first()) == (4, 0)
    copies = review.suspect(6)
    assert (copies["marked"], copies["outcome"]) == ([0, 2], "settled by exclude.txt or relabel.csv already")
    assert review.decide(6, "keep")["number"] == 8
    assert excluded(folder) == ["train/dog/b.png", "train/cat/odd_0.png"]
    review.close()


def test_a_copy_whose_label_is_in_doubt_is_open_though_the_other_is_excluded(tmp_path: Path) -> None:
    folder = write_examined_folder(tmp_path)
    (folder / "exclude.txt").write_text("train/cat/a.png\ntrain/dog/b.png\n")  # its twin is labelled dog
    labels = folder / "labels.csv"
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join(f"{one[:-5]}True" if one.startswith("test/dog/b.png") else one for one in lines))
    review = Review(read(folder), Decisions(folder))
    assert (review.decided, review.first()) == (0, 0)
    assert review.decide(0, "exclude", marked=[0])["number"] == 1
    review.close()
    (folder / "relabel.csv").write_text("image,label\ntest/dog/b.png,cat\n")
    review = Review(read(folder), Decisions(folder))
    assert review.decided == 2
    review.close()


def test_a_resumed_review_goes_on_where_it_was(tmp_path: Path) -> None:
    folder = write_examined_folder(tmp_path)
    review = Review(read(folder), Decisions(folder))
    review.decide(0, "exclude", marked=[0])
    review.decide(1, "keep")
    review.close()
    review = Review(read(folder), Decisions(folder))
    assert (review.decided, review.first()) == (2, 2)
    assert review.undo()["number"] == 1
    assert review.undo()["number"] == 0
    assert review.decided == 0
    review.close()


def test_images_are_encoded_anew_and_only_by_number(client: Client) -> None:
    answer = client.send("GET", f"/{client.server.secret}/images/large/0")
    with Image.open(io.BytesIO(answer.text)) as image:  # type: ignore[attr-defined]
        assert (image.size, image.format) == ((64, 48), "WEBP")
    assert answer.headers["Content-Type"] == "image/webp"
    for path in (
        "images/large/999",
        "images/large/-1",
        "images/huge/0",
        "images/large/..%2f0",
        "suspects/9",
        "suspects/x",
    ):
        assert "error" in client.ask(path, status=400)
    for path in (
        "images/large/../../../etc/passwd",
        "train/cat/a.png",
        "exclude.txt",
        "..",
        "suspects",
        "suspects/0/1",
    ):
        assert client.ask(path, status=404)["error"] == "there is no such page"
    (client.folder.parent / "data" / "train/cat/label 0.png").write_bytes(b"none")
    assert client.ask("images/small/0", status=422)["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_sites_are_refused(client: Client, headers: dict[str, str]) -> None:
    body = {"suspect": 0, "choice": "exclude", "marked": [0]}
    answer = client.send("POST", f"/{client.server.secret}/decisions", body, {**JSON, **headers})
    assert (answer.status, excluded(client.folder)) == (403, [])
    if "Sec-Fetch-Site" not in headers:
        assert client.send("GET", f"/{client.server.secret}/images/large/0", headers=headers).status == 403


def test_nothing_is_told_without_the_secret(client: Client) -> None:
    for path in (
        "/",
        "/suspects/0",
        "/images/large/0",
        f"/{client.server.secret}x/",
        f"/{client.server.secret[:-1]}/",
        "/é",
    ):
        quoted = path.replace("é", "%C3%A9")
        assert client.send("GET", quoted).status == 404
        assert client.send("POST", quoted, {}, JSON).status == 404
    assert client.send("POST", "/decisions", {"suspect": 0, "choice": "exclude"}, JSON).status == 404
    assert excluded(client.folder) == []


def test_decisions_that_make_no_sense_are_refused(client: Client) -> None:
    for body in (
        {}, {"suspect": "0", "choice": "keep"}, {"suspect": 0, "choice": "burn"}, {"suspect": 99, "choice": "keep"},
        {"suspect": -1, "choice": "keep"}, {"suspect": True, "choice": "keep"}, {"suspect": 0, "choice": "relabel"},
        {"suspect": 2, "choice": "relabel", "label": 3}, {"suspect": 2, "choice": "relabel", "label": -1},
        {"suspect": 2, "choice": "relabel", "label": "dog"}, {"suspect": 0, "choice": "exclude", "marked": []},
        {"suspect": 0, "choice": "exclude", "marked": [2]}, {"suspect": 0, "choice": "exclude", "marked": {}},
        {"suspect": 0, "choice": "exclude", "marked": ["0"]},
    ):  # fmt: skip
        assert "error" in client.ask("decisions", body, status=400)
    assert client.ask("undo", {}, status=400)["error"] == "there is no decision to undo"
    assert (client.folder / "decisions.jsonl").read_bytes() == b""


def test_bodies_that_are_no_json_are_refused(client: Client) -> None:
    path = f"/{client.server.secret}/decisions"
    good = json.dumps({"suspect": 0, "choice": "keep"}).encode()
    for body, headers in (
        (good, {"Content-Type": "text/plain"}),  # what a form of another site can send
        (good, {"Content-Type": "application/x-www-form-urlencoded"}),
        (b"nonsense", JSON),
        (b"[1]", JSON),
        (b"[" * 5000, JSON),
        (good, JSON | {"Content-Length": str(MOST_BYTES + 1)}),
        (good, JSON | {"Content-Length": "-1"}),
    ):
        assert client.send("POST", path, body, headers).status == 400
    assert (client.folder / "decisions.jsonl").read_bytes() == b""


def test_a_folder_that_cannot_be_written_is_said(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from cnn_tl.core.errors import ResourceError

    def full(self: Decisions, event: object) -> None:
        raise ResourceError("no space to write it")

    monkeypatch.setattr(Decisions, "_append", full)
    assert client.decide(2, "keep", status=503)["error"] == "no space to write it"
    monkeypatch.undo()
    assert client.decide(2, "keep")["progress"]["decided"] == 1


def test_decisions_at_once_are_all_kept(client: Client) -> None:
    def decide(suspect: int) -> None:
        client.decide(suspect, "exclude", marked=[0] if suspect in (0, 1, 6) else [])

    threads = [threading.Thread(target=decide, args=(suspect,)) for suspect in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(excluded(client.folder)) == len((client.folder / "decisions.jsonl").read_text().splitlines()) == 9


def test_a_large_group_is_decided_as_a_whole(tmp_path: Path) -> None:
    folder = write_examined_folder(tmp_path)
    names = [f"train/cat/same_{n}.png" for n in range(60)]
    pairs = "".join(f"{names[0]},{name},train,train,equal bytes,1,0,True\n" for name in names[1:])
    (folder / "twins.csv").write_text(f"image_a,image_b,split_a,split_b,kind,score,group,verified\n{pairs}")
    review = Review(read(folder), Decisions(folder))
    number = next(n for n in range(review.total) if review.suspect(n)["kind"] == "twins")
    shown = review.suspect(number)
    assert (len(shown["images"]), shown["hidden"], shown["count"]) == (48, 12, 60)
    review.decide(number, "exclude", marked=shown["marked"])
    assert excluded(folder) == names[1:]
    review.close()

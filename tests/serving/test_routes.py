"""What is asked and answered: the rows of predict, and a 4xx with one line for whatever cannot be answered."""

from __future__ import annotations

import io
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_server
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from small_server import CLASSES, SPEC, by_brightness, classifier, image, service
from starlette.testclient import TestClient

from cnn_tl.core import retries
from cnn_tl.explaining.methods import heat_maps
from cnn_tl.plots.explanation import heat_over
from cnn_tl.serving import routes
from cnn_tl.serving.limits import HEADERS, Limits

LIMITS = Limits(body=200_000, files=5, images=6, heat_maps=1)
FORM = "multipart/form-data"


def client_of(made: Any, *, local: bool = True, **options: Any) -> TestClient:
    return TestClient(routes.build(made, local=local), base_url="http://127.0.0.1:8000", **options)


@pytest.fixture
def client() -> Iterator[TestClient]:
    made = service(LIMITS)
    yield client_of(made)
    made.close()


def files(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("files", (f"{number}.png", content)) for number, content in enumerate(contents)]


def test_the_answers_are_those_of_predict(client: TestClient, tmp_path: Path) -> None:
    """Also in batches, with broken ones between; file names are given back as they came."""
    contents = [image(value, kind) for value, kind in ((0, "PNG"), (100, "JPEG"), (200, "WEBP"), (255, "BMP"))]
    contents.insert(2, image(7)[:200])
    paths = [tmp_path / f"{number}.png" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    expected = [answer.to_dict() | {"file": Path(answer.file).name} for answer in classifier().predict(paths, top=9)]
    got = client.post("/predict?top=9", files=files(*contents))
    assert got.json() == expected
    assert got.status_code == 422
    assert [row["error"] for row in expected] == [None, None, "truncated PNG", None, None]
    alone = [client.post("/predict?top=9", files={"files": (path.name, path.read_bytes())}) for path in paths]
    assert [answer.status_code for answer in alone] == [200, 200, 422, 200, 200]
    assert [answer.json()[0] for answer in alone] == expected
    assert len(client.post("/predict", files=files(contents[0])).json()[0]["top"]) == 1


def png_that_claims(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header promises more pixels than anybody should decode."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, data, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"GIF89a", "damaged GIF"),
        (b"<svg onload=alert(1)>", "format not accepted (SVG)"),
        (image(3, "JPEG", 64)[:500], "truncated JPEG"),
        (png_that_claims(60_000, 60_000), "over the limit of 89,478,485"),
        (image(1, side=3), "a side under 4"),
    ],
)
def test_broken_images(client: TestClient, content: bytes, reason: str) -> None:
    answer = client.post("/predict", files=files(content))
    [row] = answer.json()
    assert (answer.status_code, row["label"], row["top"]) == (422, None, [])
    assert reason in row["error"]
    explained = client.post("/explain", files={"file": ("x", content)})
    assert (explained.status_code, explained.json()) == (422, {"error": row["error"]})


def test_a_server_may_take_fewer_pixels_than_its_model() -> None:
    for pixels, said in ((399, "over the limit of 399 (--max-pixels)"), (2**40, "89,478,485 (data.max_pixels)")):
        made = service(replace(LIMITS, pixels=pixels))
        contents = image() if pixels == 399 else png_that_claims(60_000, 60_000)
        assert client_of(made).post("/predict", files=files(contents)).json()[0]["error"].endswith(said)
        made.close()


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        ({"url": "/predict", "files": {"file": ("x.png", b"x")}}, 400, "no file in the field 'files'"),
        ({"url": "/predict", "data": {"files": "text"}}, 415, "multipart/form-data"),
        ({"url": "/predict", "files": [("files", (None, b"text"))]}, 400, "field 'files' holds text instead"),
        ({"url": "/predict", "files": [*files(image()), ("files", (None, b"text"))]}, 400, "'files' holds text"),
        ({"url": "/explain", "files": [("file", (None, b"text"))]}, 400, "'file' holds text"),
        ({"url": "/predict"}, 415, "multipart/form-data"),
        ({"url": "/predict", "json": {"files": []}}, 415, "not application/json"),
        ({"url": "/predict", "content": b"x", "headers": {"Content-Type": FORM}}, 400, "oundary"),
        ({"url": "/predict", "content": b"--b\r\nbroken", "headers": {"Content-Type": f"{FORM}; boundary=b"}}, 400, ""),
        ({"url": "/predict?top=0", "files": files(image())}, 400, "top:"),
        ({"url": "/predict?top=many", "files": files(image())}, 400, "top:"),
        ({"url": "/predict", "files": files(*[image()] * 6)}, 400, "5 at most"),
        ({"url": "/predict", "files": files(b"x" * 300_000)}, 413, "0.190735 MB at most"),
        ({"url": "/explain?class=bright", "files": {"file": image()}}, 400, "no class bright"),
        ({"url": "/nowhere"}, 404, "Not Found"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(client: TestClient, request_: dict[str, Any], code: int, said: str) -> None:
    answer = client.post(**request_)
    assert answer.status_code == code, answer.text
    assert set(answer.json()) == {"error"}
    assert said in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_body_that_hides_its_length_is_stopped_too(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield b"x" * 1000

    answer = client.post("/predict", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 413
    assert client.post("/predict", files=files(image())).status_code == 200


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, 200),
        ({"Host": "localhost:8000"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "evil.example:8000"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://["}, 403),
        ({"Host": "[::"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_pages_of_others_are_refused(client: TestClient, headers: dict[str, str], code: int) -> None:
    answer = client.post("/predict", files=files(image()), headers=headers)
    assert answer.status_code == code
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers.items() >= {name.lower(): value for name, value in HEADERS.items()}.items()


def test_on_a_network_any_name_is_right_and_other_sites_are_not() -> None:
    made = service(LIMITS)
    client = client_of(made, local=False)
    assert client.get("/health", headers={"Host": "images.example"}).status_code == 200
    foreign = {"Host": "images.example", "Sec-Fetch-Site": "cross-site"}
    assert client.post("/predict", files=files(image()), headers=foreign).status_code == 403
    made.close()


def test_overload_is_503_and_passes(client: TestClient) -> None:
    """While the model is held up six images find a place; the next ones are told to come back."""
    held, released = threading.Event(), threading.Event()

    def waiting(pixels: Any) -> Any:
        held.set()
        released.wait(30)
        return by_brightness(pixels)

    made = service(LIMITS, waiting)
    client = client_of(made)
    answers: list[int] = []

    def ask() -> None:
        answers.append(client.post("/predict", files=files(image(), image(9))).status_code)

    with client:
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        held.wait(30)
        while "cnn_tl_waiting_images 6.0" not in client.get("/metrics").text:
            pass
        refused = client.post("/predict", files=files(image()))
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert "try again" in refused.json()["error"]
        assert client.get("/health").status_code == 200
        released.set()
        for thread in threads:
            thread.join()
        assert answers == [200] * 3
        assert client.post("/predict", files=files(image())).status_code == 200
        assert "cnn_tl_waiting_images 0.0" in client.get("/metrics").text
    made.close()


def test_a_model_that_fails_is_500_or_503_and_goes_on() -> None:
    raised: list[Exception] = [RuntimeError("the model's own"), MemoryError()]

    def failing(pixels: Any) -> Any:
        if raised:
            raise raised.pop(0)
        return by_brightness(pixels)

    made = service(LIMITS, failing)
    client = client_of(made, raise_server_exceptions=False)
    answers = [client.post("/predict", files=files(image())) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [500, 503, 200]
    assert "RuntimeError" in answers[0].json()["error"]
    assert "model's own" not in answers[0].text
    made.close()


def test_heat_map(client: TestClient) -> None:
    """By occlusion, drawn as `explain` draws it; without a class it is that of the answer."""
    content = image(255, side=16)
    answer = client.post("/explain", files={"file": content})
    assert (answer.headers["x-class"], answer.headers["x-method"]) == ("%3Cb%3Elight%3C/b%3E", "occlusion")
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    heat = heat_maps.occlusion_map_of_pixels(by_brightness, pixels, 1, SPEC)
    assert heat[:8, :8].mean() > 10 * heat[9:, 9:].mean()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), heat_over(pixels, heat))
    other = client.post("/explain", params={"class": "grün"}, files={"file": content})
    assert other.headers["x-class"] == "gr%C3%BCn"
    assert other.content != answer.content


@pytest.mark.parametrize(
    ("value", "label", "caveat"),
    [
        (255, "<b>light</b>", None),
        (0, "<b>light</b>", heat_maps.EMPTY),  # wherever it is covered it becomes lighter
        (0, "dark", None),
        (136, "<b>light</b>", heat_maps.NO_EVIDENCE),  # grey is 128: a little less light
    ],
)
def test_a_heat_map_that_proves_nothing_says_so(client: TestClient, value: int, label: str, caveat: str | None) -> None:
    answer = client.post("/explain", params={"class": label}, files={"file": image(value, side=16)})
    assert answer.headers.get("x-caveat") == caveat


def test_health_metrics_and_openapi(client: TestClient) -> None:
    health = client.get("/health")
    assert health.status_code == 200
    assert health.json()["classes"] == list(CLASSES)
    assert health.json()["status"] == "ok"
    client.post("/predict", files=files(image(), b"broken"))
    client.get("/a-path-that-somebody-made-up")
    text = client.get("/metrics").text
    for line in (
        'cnn_tl_requests_total{path="/predict",status="422"} 1.0',
        'cnn_tl_requests_total{path="other",status="404"} 1.0',
        'cnn_tl_images_total{outcome="answered"} 1.0',
        'cnn_tl_images_total{outcome="broken"} 1.0',
        "cnn_tl_batch_size_count 1.0",
        'cnn_tl_request_seconds_count{path="/predict"} 1.0',
        "process_resident_memory_bytes",
    ):
        assert line in text
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/predict", "/explain", "/health", "/metrics"}
    assert set(schema["paths"]["/predict"]["post"]["responses"]) == {"200", "400", "408", "413", "415", "422", "503"}
    assert client.get("/docs").status_code == 404
    assert "http" not in json.dumps(schema["paths"])


def test_a_server_that_stops_says_so_and_answers_what_has_come() -> None:
    made = service(LIMITS)
    client = client_of(made)
    made.stopping = True
    assert client.get("/health").status_code == 503
    assert client.post("/predict", files=files(image())).status_code == 200
    made.close()
    assert (client.get("/health").status_code, client.get("/health").json()["status"]) == (503, "stopping")
    assert client.post("/predict", files=files(image())).status_code == 503


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    for path, (_, media_type) in routes.PAGE.items():
        answer = client.get(path)
        assert answer.headers["content-type"].partition(";")[0] == media_type
        assert "://" not in answer.text.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert "innerHTML" not in answer.text


def test_a_class_that_utf_8_cannot_say() -> None:
    made = service(LIMITS)
    made.classifier = replace(made.classifier, classes=("\udcff", "b", "c"))
    client = client_of(made)
    assert client.get("/health").json()["classes"][0] == "\udcff"
    assert client.post("/predict", files=files(image())).json()[0]["label"] == "\udcff"
    for query, code in (("", 200), ("?class=%ED%B3%BF", 200), ("?class=%FF", 400), ("?class=", 400)):
        answer = client.post(f"/explain{query}", files={"file": image()})
        assert (answer.status_code, answer.headers.get("x-class", "%ED%B3%BF")) == (code, "%ED%B3%BF")
    made.close()


def test_a_machine_without_memory_is_not_a_broken_image(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(retries, "PAUSES", [])
    monkeypatch.setattr(PngImageFile, "load", load)
    for path, name in (("/predict", "files"), ("/explain", "file")):
        answer = client.post(path, files={name: ("0.png", image(7))})
        assert answer.status_code == 503, answer.text
        assert "not enough memory" in answer.json()["error"]
        assert answer.headers["Retry-After"]


def test_the_bodies_of_all_requests_together_have_a_limit() -> None:
    made = service(replace(LIMITS, bodies=1000))
    client = client_of(made)
    for _ in range(3):
        answer = client.post("/predict", files=files(b"x" * 2000))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json() == {"error": "too many bytes are arriving at the moment; try again"}
    assert client.post("/predict", files=files(image())).status_code == 503
    made.close()
    roomy = service(replace(LIMITS, bodies=5000))
    for _ in range(5):  # what has been read is given back
        assert client_of(roomy).post("/predict", files=files(image())).status_code == 200
    roomy.close()


def test_more_heat_maps_than_there_may_be_are_503_while_answers_go_on() -> None:
    made = service(replace(LIMITS, heat_maps=0))
    client = client_of(made)
    explained = client.post("/explain", files={"file": ("x.png", image())})
    assert (explained.status_code, explained.json()["error"]) == (
        503, "too many heat maps are being made at the moment; try again"
    )  # fmt: skip
    assert client.post("/predict", files=files(image())).status_code == 200
    made.close()


@pytest.mark.parametrize("promises", [{}, {"max_error": 0.05, "unknown": 0.01}])
def test_each_row_says_whether_it_is_an_answer(monkeypatch: pytest.MonkeyPatch, promises: dict[str, float]) -> None:
    monkeypatch.setattr(small_server, "classifier", small_server.judging)
    made = service(LIMITS, **promises)
    try:
        client = client_of(made)
        rows = client.post("/predict?top=3", files=files(*map(image, (0, 100, 128)))).json()
        withheld = bool(promises)
        assert [row["verdict"] for row in rows] == ["answered", "unsure" if withheld else "answered", "unknown"]
        assert [row["label"] for row in rows] == ["dark", *([None, None] if withheld else ["dark", rows[2]["label"]])]
        assert [row["distance"] for row in rows] == [0.5, 0.5, 3.0]
        assert [row["set"] for row in rows[:2]] == [["dark"], ["dark", "grün"]]
        assert all(len(row["top"]) == 3 for row in rows)
        rule = client.get("/health").json()["rule"]
        assert rule == {"max_error": None, **promises, "unknown": 0.01, "most_distance": 1.0, "withholds": withheld} | {
            "least_probability": 0.9 if withheld else 0.0
        }
        assert 'cnn_tl_verdicts_total{verdict="unknown"} 1.0' in client.get("/metrics").text
    finally:
        made.close()


def test_a_model_that_knows_no_distance_says_so(client: TestClient) -> None:
    rule = client.get("/health").json()["rule"]
    assert (rule["unknown"], rule["most_distance"], rule["withholds"]) == (None, None, False)
    [row] = client.post("/predict", files=files(image(128))).json()
    assert (row["verdict"], row["set"], row["distance"]) == (None, None, None)

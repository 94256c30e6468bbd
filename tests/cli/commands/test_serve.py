"""`cnn-tl serve`: what its flags come to, and what is said where; tests/serving has the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_server import by_brightness, classifier, image
from starlette.testclient import TestClient

from cnn_tl.core.errors import Stopped
from cnn_tl.explaining import one_heat_map
from cnn_tl.inference import loading
from cnn_tl.serving import server


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """Let every model be the small one, and every server answer three requests and stop."""
    answers: list[Any] = []

    def serve(app: Any, listening: Any, on_ready: Callable[[], None], on_stop: Callable[[], None]) -> None:
        on_ready()
        client = TestClient(app, base_url="http://127.0.0.1")
        for count in (1, 3):
            sent = [("files", (f"{number}.png", image(0, side=20))) for number in range(count)]
            answers.append(client.post("/predict?top=2", files=sent))
        answers.append(client.post("/predict", files={"files": ("large.png", image(0, side=40))}))
        answers.append(client.get("/health"))
        on_stop()
        answers.append(client.get("/health"))
        raise Stopped("stopped", 15)

    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(loading, "load", lambda source, device: classifier())
    occlusion = "occlusion", lambda pixels, index: by_brightness(pixels[None])
    monkeypatch.setattr(one_heat_map, "load", lambda *_: occlusion)
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/model.onnx").touch()
    return answers


def test_flags_and_words(cli: Callable[..., Any], asked: list[Any]) -> None:
    done = cli("serve", "run/model.onnx", "--port", 0, "--max-files", 2, "--max-pixels", 500, "--max-mb", 1)
    assert (done.code, done.err) == (143, "stopped\n")
    assert done.out.startswith("run/model.onnx (3 classes) answers at http://127.0.0.1:")
    one, three, large, health, stopping = asked
    assert [row["label"] for row in one.json()] == ["dark"]
    assert (three.status_code, three.json()["error"]) == (400, "3 files in one request; 2 at most")
    assert large.json()[0]["error"] == "40 × 40 pixels, over the limit of 500 (--max-pixels)"
    assert (health.json()["model"], health.json()["max_bytes"], health.status_code) == ("run/model.onnx", 2**20, 200)
    assert stopping.status_code == 503


def test_a_network_is_warned_of(cli: Callable[..., Any]) -> None:
    done = cli("serve", "run/model.onnx", "--port", 0, "--host", "0.0.0.0")
    warning, stopped = done.err.splitlines()
    assert warning.startswith("warning: anyone on the network can reach http://0.0.0.0:")
    assert stopped == "stopped"

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from cnn_tl.core.errors import ResourceError
from cnn_tl.networks.pretrained import hub

CONTENT = b"the weights of a model"
DIGEST = "6e5bbc7a"  # not that of CONTENT
CFG = SimpleNamespace(hf_hub_id="someone/model", url=None)

SCRIPT = """
import sys
from types import SimpleNamespace
from cnn_tl.core.errors import ResourceError
from cnn_tl.networks.pretrained import hub
cfg = SimpleNamespace(hf_hub_id=sys.argv[1], url=None)
try:
    print((hub.cached(cfg) or hub.download(cfg)).read_text())
except ResourceError as error:
    print("ResourceError", error)
"""


class FakeHub(BaseHTTPRequestHandler):
    """Serves one repository, whose weights are in the older of the two formats."""

    def answer(self) -> None:
        here = self.path.endswith(("/someone/model/resolve/main/pytorch_model.bin", ".pth"))
        body = CONTENT if here else b""
        self.send_response(200 if here else 404)
        for name, value in {
            "Content-Length": str(len(body)),
            "ETag": '"0123"',
            "X-Repo-Commit": "c" * 40,
            **({} if here else {"X-Error-Code": "EntryNotFound"}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_GET = do_HEAD = answer  # noqa: N815 - the names that http.server calls

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeHub) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "hub" / "checkpoints"


def ask(repository: str, home: Path, **environment: str) -> str:
    """Locate a repository's weights in a process of its own, because the hub reads its settings when imported."""
    variables = {**os.environ, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1", **environment}
    command = [sys.executable, "-c", SCRIPT, repository]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def test_downloads_once_then_needs_no_network(server: str, tmp_path: Path) -> None:
    assert ask("someone/model", tmp_path, HF_ENDPOINT=server) == CONTENT.decode() + "\n"
    assert ask("someone/model", tmp_path, HF_ENDPOINT="http://127.0.0.1:1") == CONTENT.decode() + "\n"


def test_offline_by_the_hubs_own_switch(server: str, tmp_path: Path) -> None:
    answer = ask("someone/model", tmp_path, HF_ENDPOINT=server, HF_HUB_OFFLINE="1")
    assert answer.startswith("ResourceError 127.0.0.1 cannot be reached (")
    assert "offline" in answer.lower()


def test_a_repository_without_weights(server: str, tmp_path: Path) -> None:
    answer = ask("someone/empty", tmp_path, HF_ENDPOINT=server)
    assert answer.startswith("ResourceError the download from 127.0.0.1 failed: ")
    assert answer.count("\n") == 1


def test_weights_at_a_url(server: str, torch_home: Path) -> None:
    cfg = SimpleNamespace(hf_hub_id=None, url=f"{server}/releases/model.pth")
    assert hub.cached(cfg) is None
    assert hub.download(cfg) == torch_home / "model.pth"
    assert (torch_home / "model.pth").read_bytes() == CONTENT
    assert hub.cached(cfg) == torch_home / "model.pth"


@pytest.mark.parametrize("name", [f"model-{DIGEST}.pth", "absent.bin"])
def test_a_broken_download_leaves_nothing(name: str, server: str, torch_home: Path) -> None:
    cfg = SimpleNamespace(hf_hub_id=None, url=f"{server}/{name}")
    with pytest.raises(ResourceError, match=r"the download from 127\.0\.0\.1 failed: "):
        hub.download(cfg)
    assert list(torch_home.iterdir()) == []
    assert hub.cached(cfg) is None


def test_a_silent_network_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    silent = SimpleNamespace(head=lambda *_, **__: released.wait(60))
    monkeypatch.setattr(huggingface_hub, "get_session", lambda: silent)
    monkeypatch.setattr(hub, "TIMEOUT", 0.05)
    monkeypatch.setattr(hub, "_started", {})
    with pytest.raises(ResourceError, match=r"cannot be reached \(no answer within 0\.05 s\)"):
        hub.download(CFG)
    released.set()

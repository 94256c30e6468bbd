"""Run each command that loads other packages, one after another in this process, and record what connects.

Run as `python every_command.py WORK PORT SECONDS`: WORK has data/ and tiny.safetensors; SECONDS is how long `serve`
stays after its answers.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

CONNECTIONS = "connections.txt"
LONG = ("benchmark", "lr-find")
"""Commands of the long form only; so is training in mode finetune."""


def commands(work: Path, port: int) -> list[list[str]]:
    tiny = ["--model", "test_resnet", "--weights", str(work / "tiny.safetensors"), "--image-size", "64"]
    data, run, image = str(work / "data"), str(work / "run"), str(work / "data/ash/0.png")
    model = f"{run}/model.onnx"
    return [
        ["train", data, *tiny, "--output", run],
        ["train", data, *tiny, "--mode", "finetune", "--epochs", "1", "--output", f"{run}-tuned"],
        ["predict", run, image],
        ["evaluate", run, data],
        ["explain", run, image, "--no-faithfulness", "--output", str(work / "why")],
        ["lr-find", data, *tiny, "--output", str(work / "rates.png")],
        ["benchmark", data, "--model", "test_resnet", "--images", "32"],
        ["export", run],
        ["predict", model, image],
        ["serve", model, "--port", str(port)],
    ]


def ask(port: int, image: Path, seconds: float) -> None:
    """Request the page and a prediction from the server once it is up, then stop it."""
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n' + image.read_bytes()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    post = urllib.request.Request(f"http://127.0.0.1:{port}/predict", body + b"\r\n--x--\r\n", headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        for _ in range(600):
            try:
                opener.open(f"http://127.0.0.1:{port}/", timeout=30).read()
                break
            except urllib.error.URLError:
                time.sleep(0.05)
        opener.open(post, timeout=30).read()
        time.sleep(seconds)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    work, port, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    found = (work / CONNECTIONS).open("a")

    def note(event: str, details: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            found.write(f"{details[-1]}\n")
        elif event == "socket.getaddrinfo":
            found.write(f"{details[0]}\n")
        found.flush()

    sys.addaudithook(note)
    from cnn_tl.cli import app

    for arguments in commands(work, port):
        if seconds == 0 and (arguments[0] in LONG or "finetune" in arguments):
            continue
        if arguments[0] == "serve":
            threading.Thread(target=ask, args=(port, work / "data/ash/0.png", seconds), daemon=True).start()
        code = app.run(arguments)
        assert code == (143 if arguments[0] == "serve" else 0), (arguments, code)


if __name__ == "__main__":
    main()

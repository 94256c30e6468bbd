"""A trained model under load: 64 connections, 5% broken files, every answer compared with that of `cnn-tl predict`."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from small_server import Served, httpx, running

import cnn_tl
from cnn_tl.inference.loading import load as load_model

CONNECTIONS = 64
SECONDS = float(os.environ.get("CNN_TL_LOAD_SECONDS", "60"))
BROKEN_SHARE = 0.05
TOLERANCE = 2e-6
"""Answers are rounded to six digits, and a batch of another size moves the last one."""

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def trained(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on the dishes and export, or take the run folder that the environment names."""
    if given := os.environ.get("CNN_TL_LOAD_RUN"):
        return Path(given)
    run = tmp_path_factory.mktemp("load") / "run"
    data = {"path": str(shared / "data" / "pizza_steak_sushi")}
    cnn_tl.train(cnn_tl.Recipe.model_validate({"data": data}), run)
    cnn_tl.export(run)
    return run


@pytest.fixture(scope="module")
def images(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    """Return whole images, and broken ones: cut off, empty, text."""
    whole = sorted((shared / "data" / "pizza_steak_sushi" / "val").glob("*/*.jpg"))
    folder = tmp_path_factory.mktemp("broken")
    contents = {
        "cut.jpg": whole[0].read_bytes()[:5000],
        "empty.jpg": b"",
        "text.jpg": b"no image",
        "head.png": b"\x89PNG",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return whole, [folder / name for name in contents]


def predicted(model: Path, files: list[Path]) -> dict[str, dict[str, object]]:
    """Return the rows of `cnn-tl predict` by the name of the file."""
    command = [
        sys.executable,
        "-m",
        "cnn_tl",
        "predict",
        str(model),
        *map(str, files),
        "--top",
        "3",
        "--format",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = json.loads(done.stdout)
    return {Path(row["file"]).name: row | {"file": Path(row["file"]).name} for row in rows}


def predict_alone(model: Path, files: list[Path]) -> float:
    """Return the images a second of `predict` without its start, to set the server's figures against."""
    classifier = load_model(model)
    list(classifier.predict(files[:16]))
    began = time.perf_counter()
    list(classifier.predict(files))
    return len(files) / (time.perf_counter() - began)


def request(path: Path, port: int) -> bytes:
    disposition = f'Content-Disposition: form-data; name="files"; filename="{path.name}"'
    body = f"--b\r\n{disposition}\r\n\r\n".encode() + path.read_bytes() + b"\r\n--b--\r\n"
    lines = ["POST /predict?top=3 HTTP/1.1", f"Host: 127.0.0.1:{port}", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "Content-Type: multipart/form-data; boundary=b", "", ""]).encode() + body


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sent: bytes) -> tuple[int, bytes]:
    writer.write(sent)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = re.search(r"content-length: (\d+)", head)
    assert length is not None
    return int(head.split()[1]), await reader.readexactly(int(length[1]))


def same(row: dict[str, object], expected: dict[str, object]) -> bool:
    """Say whether two rows are one answer, probabilities within `TOLERANCE`."""
    left, right = (json.dumps(one, sort_keys=True) for one in (row, expected))
    number = r"\d\.\d+(?:e-\d+)?|\b[01]\b"
    figures = [[float(found) for found in re.findall(number, text)] for text in (left, right)]
    if re.sub(number, "#", left) != re.sub(number, "#", right):
        return False
    return bool(np.allclose(*figures, rtol=0, atol=TOLERANCE))


async def load(
    served: Served, expected: dict[str, dict[str, object]], whole: list[Path], broken: list[Path], duration: float
) -> tuple[Counter[int], list[float], list[str]]:
    """Ask on all connections at once until the time is over; return statuses, seconds each, and what was wrong."""
    sent = {path.name: request(path, served.port) for path in [*whole, *broken]}
    statuses: Counter[int] = Counter()
    seconds: list[float] = []
    wrong: list[str] = []
    until = time.monotonic() + duration

    async def client(number: int) -> None:
        chance = random.Random(number)
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        while time.monotonic() < until:
            path = chance.choice(broken if chance.random() < BROKEN_SHARE else whole)
            began = time.perf_counter()
            status, body = await ask(reader, writer, sent[path.name])
            seconds.append(time.perf_counter() - began)
            statuses[status] += 1
            [row] = json.loads(body)
            if status != (422 if path in broken else 200) or not same(row, expected[path.name]):
                wrong.append(f"{status} {row} instead of {expected[path.name]}")
        writer.close()

    await asyncio.gather(*map(client, range(CONNECTIONS)))
    return statuses, seconds, wrong


def resident(served: Served) -> float:
    text = httpx.get(f"{served.url}metrics").text
    found = re.search(r"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)
    assert found is not None
    return float(found[1]) / 2**20


@pytest.mark.parametrize("kind", ["model.onnx", "run"])
def test_a_minute_of_load(trained: Path, images: tuple[list[Path], list[Path]], kind: str, tmp_path: Path) -> None:
    whole, broken = images
    model = trained if kind == "run" else trained / kind
    expected = predicted(model, [*whole, *broken])
    alone = predict_alone(model, whole)
    with running([sys.executable, "-m", "cnn_tl", "serve", str(model), "--port", "0"], cwd=tmp_path) as served:
        start = resident(served)
        asyncio.run(load(served, expected, whole, broken, SECONDS / 4))  # batches of every size have been met
        warm = resident(served)
        statuses, seconds, wrong = asyncio.run(load(served, expected, whole, broken, SECONDS))
        after = resident(served)
        assert httpx.get(f"{served.url}health").status_code == 200
        code, said = served.stop()
    p50, p90, p99 = (1000 * np.quantile(seconds, share) for share in (0.5, 0.9, 0.99))
    sys.stderr.write(
        f"\n{kind}: {len(seconds) / SECONDS:.1f} requests/s, {dict(statuses)}, "
        f"latency ms p50 {p50:.0f} p90 {p90:.0f} p99 {p99:.0f} max {1000 * max(seconds):.0f}, "
        f"memory {start:.0f} MB, warm {warm:.0f}, in the end {after:.0f}; predict alone {alone:.1f} images/s\n"
    )
    assert wrong == []
    assert set(statuses) == {200, 422}
    assert (code, said.count("\n")) == (143, 1), said
    assert after < 1.15 * warm

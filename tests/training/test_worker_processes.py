"""A run whose images processes decode is the run whose images threads decode, and ends as cleanly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from child_processes import decoders_of, wait_until_gone
from PIL import Image
from whole_runs import StopAfter, assert_same_weights, final_weights

import cnn_tl
from cnn_tl.core.errors import Stopped
from cnn_tl.data.reading import ahead, pool
from cnn_tl.recipe import Recipe
from cnn_tl.training.run import train

Make = Callable[..., Recipe]

BY_PROCESSES = """
from cnn_tl.data.reading import ahead
ahead.PROCESSES_FROM, ahead.IMAGES_EACH = 1, 0
from cnn_tl.__main__ import main
main()
"""


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let processes decode even few images; return the numbers of workers of the pools that were made."""
    made: list[int] = []
    real = pool.Pool.__init__

    def counted(self: pool.Pool, workers: int) -> None:
        made.append(workers)
        real(self, workers)

    monkeypatch.setattr(ahead, "PROCESSES_FROM", 1)
    monkeypatch.setattr(ahead, "IMAGES_EACH", 0)
    monkeypatch.setattr(pool.Pool, "__init__", counted)
    return made


@pytest.fixture
def uneven(data: Path) -> Path:
    """Make some images broken or blank."""
    (data / "ash" / "3.png").write_bytes((data / "ash" / "3.png").read_bytes()[:300])
    Image.new("RGB", (24, 24), "white").save(data / "birch" / "2.png")
    return data


@pytest.mark.parametrize(
    ("mode", "sections"),
    [
        ("freeze", {}),
        ("freeze", {"features": {"views": 2}, "augment": {"crop_scale_min": 0.4, "color": 0.3}}),
        ("finetune", {"augment": {"crop_scale_min": 0.4}}),
        ("finetune", {"data": {"keep_images": False}, "augment": {"crop_scale_min": 0.4}}),
    ],
)
def test_a_run_is_the_same_by_processes(
    recipe: Make, uneven: Path, tmp_path: Path, processes: list[int], monkeypatch: pytest.MonkeyPatch,
    mode: str, sections: dict[str, dict[str, object]],
) -> None:  # fmt: skip
    sections = {**sections, "data": {"path": str(uneven), **sections.get("data", {})}}
    run = {"device": "cpu", "workers": 2, "precision": "fp32"}
    train(recipe(mode, run=run, **sections), tmp_path / "by processes")
    assert processes == [2], "one pool for all of a run"
    monkeypatch.setattr(ahead, "PROCESSES_FROM", 99)
    monkeypatch.setenv("CNN_TL_CACHE", str(tmp_path / "another cache"))
    train(recipe(mode, run=run, **sections), tmp_path / "by threads")
    assert processes == [2]
    assert_same_weights(tmp_path / "by processes", tmp_path / "by threads")
    texts = [(tmp_path / name / "manifest.json").read_text() for name in ("by processes", "by threads")]
    assert texts[0] == texts[1]
    assert len(json.loads(texts[0])["set_aside"]) == 1
    assert "one colour all over" in texts[0]
    assert [thread for thread in threading.enumerate() if thread.name == "decode"] == []


@pytest.mark.parametrize("mode", ["freeze", "finetune"])
def test_a_stopped_run_ends_its_processes(recipe: Make, tmp_path: Path, processes: list[int], mode: str) -> None:
    task = "features" if mode == "freeze" else "preparing"
    with pytest.raises(Stopped):
        train(recipe(mode, run={"device": "cpu", "workers": 2}), tmp_path / "run", observer=StopAfter(task, 16))
    assert processes == [2]
    assert [thread for thread in threading.enumerate() if thread.name == "decode"] == []


@pytest.mark.skipif(sys.platform != "linux", reason="it asks ps for the children of a process")
@pytest.mark.parametrize(
    ("number", "to_group", "code"),
    [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143), (signal.SIGKILL, False, -9)],
)
def test_a_signal_ends_the_command_and_its_processes(
    tmp_path: Path, tiny_weights: Path, number: int, to_group: bool, code: int
) -> None:
    chance = np.random.default_rng(0)
    for number_of in range(600):
        folder = tmp_path / "data" / "ab"[number_of % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (400, 400, 3), np.uint8)).save(folder / f"{number_of}.jpg")
    words = ["train", tmp_path / "data", "--output", tmp_path / "run", "--mode", "freeze", "--model", "test_resnet"]
    words += ["--weights", tiny_weights, "--image-size", "64", "--workers", "2", "--device", "cpu"]
    command = [sys.executable, "-c", BY_PROCESSES, *map(str, words)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        workers, end = [], time.monotonic() + 120
        while len(workers) < 2:
            assert time.monotonic() < end
            assert process.poll() is None, process.communicate()
            workers = decoders_of(process.pid)
        (os.killpg if to_group else os.kill)(process.pid, number)
        _, error = process.communicate(timeout=120)
    assert process.returncode == code
    if number != signal.SIGKILL:  # the first images may be on their way, or torch is still being imported
        assert "stopped; go on with: " in error or error.endswith("error: interrupted\n")
    assert "Traceback" not in error
    wait_until_gone(workers)


@pytest.mark.usefixtures("graph_is_known")
def test_a_script_of_the_user_needs_no_guard(data: Path, tiny_weights: Path, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(f"""
from cnn_tl.data.reading import ahead
ahead.PROCESSES_FROM, ahead.IMAGES_EACH = 1, 0
import cnn_tl
print("begins")
options = dict(image_size=64, weights={str(tiny_weights)!r}, workers=2, device="cpu", quiet=True)
result = cnn_tl.train({str(data)!r}, {str(tmp_path / "run")!r}, model="test_resnet", **options)
print(len(list(cnn_tl.predict(result, {str(data / "ash")!r}, workers=2, quiet=True))))
print(cnn_tl.evaluate(result, {str(data)!r}, workers=2, quiet=True).images)
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "begins\n20\n9\n"


def test_predictions_are_the_same_by_processes(
    recipe: Make, uneven: Path, tmp_path: Path, processes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = train(recipe(data={"path": str(uneven)}), tmp_path / "run")
    assert final_weights(result.run)
    processes.clear()
    answers = cnn_tl.predict(result, uneven, workers=2, quiet=True)
    assert processes == [2]
    monkeypatch.setattr(ahead, "PROCESSES_FROM", 99)
    assert cnn_tl.predict(result, uneven, workers=2, quiet=True) == answers
    assert processes == [2]
    assert [Path(answer.file).name for answer in answers if answer.error] == ["3.png"]

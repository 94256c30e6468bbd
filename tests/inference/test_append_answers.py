"""`predict --append`: killed, cut, mixed up or repeated, the file ends with the rows of an undisturbed run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cnn_tl.abstention.rule import Rule
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.inference import loading
from cnn_tl.inference.classifier import Classifier

SPEC = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NAMES = [f"{number}.png" for number in range(12)] + [
    'comma, "quote"\r\nline.png',
    "broken.png",
    b"\xff.png".decode("utf-8", "surrogateescape"),
]
IMAGES = [*NAMES, "3.png", "broken.png"]  # two are named twice


def by_brightness(pixels: Any) -> Any:
    return np.stack([pixels.mean(axis=(1, 2, 3)) / 50, np.ones(len(pixels))], axis=1).astype(np.float32)


@pytest.fixture(autouse=True)
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Work in a folder of images; return how many go through the model at a time."""
    monkeypatch.chdir(tmp_path)
    shades = Image.linear_gradient("L").resize((20, 20))
    for number, name in enumerate(NAMES):
        shades.point(lambda value, least=15 * number: least + value // 8).save(name, "png")
    Path("broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    sizes: list[int] = []

    def counting(pixels: Any) -> Any:
        sizes.append(len(pixels))
        return by_brightness(pixels)

    monkeypatch.setattr(loading, "load", lambda source, device, **_: Classifier(("dark", "light"), SPEC, counting))
    monkeypatch.setattr(loading, "digest", str)
    return sizes


@pytest.fixture(params=["csv", "jsonl"])
def undisturbed(request: pytest.FixtureRequest, cli: Callable[..., Any], asked: list[int]) -> tuple[Path, bytes]:
    """Return a name for the answers, and the bytes that have to stand there in the end."""
    whole = Path(f"whole.{request.param}")
    assert cli("predict", "run", *IMAGES, "--output", whole).code == 3
    asked.clear()
    return Path(f"answers.{request.param}"), whole.read_bytes()


def test_a_new_file_is_as_without_it(cli: Callable[..., Any], undisturbed: tuple[Path, bytes]) -> None:
    path, whole = undisturbed
    done = cli("predict", "run", *IMAGES, "--append", "--output", path)
    assert (done.code, path.read_bytes()) == (3, whole)
    assert done.err.splitlines() == [
        f"the answers are in {path}; 0 were there already",
        "error: 2 of 17 images could not be read; their rows say why",
    ]


def test_whatever_has_been_cut_off_is_answered_again(
    cli: Callable[..., Any], undisturbed: tuple[Path, bytes], asked: list[int]
) -> None:
    """A kill may come anywhere: in a name, in a number, in the middle of a character, between two rows."""
    path, whole = undisturbed
    cli("predict", "run", *IMAGES, "--append", "--output", path)
    for length in range(0, len(whole), 17):
        asked.clear()
        path.write_bytes(whole[:length])
        done = cli("predict", "run", *IMAGES, "--append", "--output", path)
        assert (done.code, path.read_bytes()) == (3, whole), length
        assert "error: 2 of 17 images could not be read" in done.err
        assert sum(asked) <= 15
    assert sum(asked) <= 1  # nearly all was there


def test_the_row_that_was_cut_off_may_say_more_than_one_thing(cli: Callable[..., Any]) -> None:
    """A reason may hold commas, as may a name."""
    Path("page.png").write_text("<html><body>an image</body></html>")
    images = ["0.png", "page.png"]
    cli("predict", "run", *images, "--output", "whole.csv")
    whole = Path("whole.csv").read_bytes()
    assert whole.count(b",", whole.index(b"page.png")) > 3
    cli("predict", "run", *images, "--append", "--output", "answers.csv")
    for length in range(len(whole)):
        Path("answers.csv").write_bytes(whole[:length])
        done = cli("predict", "run", *images, "--append", "--output", "answers.csv")
        assert (done.code, Path("answers.csv").read_bytes()) == (3, whole), length


def test_all_done_is_nothing_to_do(cli: Callable[..., Any], undisturbed: tuple[Path, bytes], asked: list[int]) -> None:
    path, whole = undisturbed
    for _ in range(2):
        done = cli("predict", "run", *IMAGES, "--append", "--output", path)
    assert (done.code, path.read_bytes(), sum(asked)) == (3, whole, 15)
    assert f"the answers are in {path}; 17 were there already" in done.err
    assert cli("predict", "run", "0.png", "--append", "--output", path).code == 0
    assert path.read_bytes() == whole


def test_more_images_come_behind(cli: Callable[..., Any], undisturbed: tuple[Path, bytes]) -> None:
    path, whole = undisturbed
    for end in (4, 9, 17):
        cli("predict", "run", *IMAGES[:end], "--append", "--output", path)
    assert path.read_bytes() == whole


def test_answers_to_other_promises(
    cli: Callable[..., Any], undisturbed: tuple[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = undisturbed
    monkeypatch.setattr(Classifier, "rule", lambda *_: Rule())
    cli("predict", "run", "0.png", "--append", "--output", path, "--max-error", "5%")
    before = path.read_bytes()
    for options in ([], ["--max-error", "10%"], ["--max-error", "5%", "--unknown", "1%"]):
        done = cli("predict", "run", "1.png", "--append", "--output", path, *options)
        assert (done.code, path.read_bytes(), done.err.count("\n")) == (2, before, 1)
        assert f"{path} has answers to other promises (--max-error, --unknown)" in done.err
    assert cli("predict", "run", "1.png", "--append", "--output", path, "--max-error", "0.05").code == 0


def test_a_file_of_a_version_without_promises_goes_on(cli: Callable[..., Any], undisturbed: tuple[Path, bytes]) -> None:
    path, _ = undisturbed
    cli("predict", "run", "0.png", "--append", "--output", path)
    about = Path(f"{path}.append.json")
    known = json.loads(about.read_text())
    del known["asked"]
    about.write_text(json.dumps(known))
    assert cli("predict", "run", "1.png", "--append", "--output", path).code == 0


def test_another_model_or_other_columns(cli: Callable[..., Any], undisturbed: tuple[Path, bytes]) -> None:
    path, _ = undisturbed
    cli("predict", "run", "0.png", "--append", "--output", path)
    before = path.read_bytes()
    for change, what in [
        (("other", "1.png"), "answers of another model"),
        (("run", "1.png", "--top", 2), "other columns"),
    ]:
        done = cli("predict", *change, "--append", "--output", path)
        assert (done.code, path.read_bytes(), done.err.count("\n")) == (2, before, 1)
        assert done.err.startswith(f"error: --append: {path} has {what}")


def test_a_file_of_someone_else(cli: Callable[..., Any], undisturbed: tuple[Path, bytes]) -> None:
    path, whole = undisturbed
    path.write_bytes(whole)
    done = cli("predict", "run", "1.png", "--append", "--output", path)
    assert (done.code, path.read_bytes()) == (2, whole)
    assert f"{path}.append.json is missing, so it is not known who wrote {path}; choose another --output" in done.err


def test_a_file_that_was_written_anew_is_not_taken_for_the_old_one(
    cli: Callable[..., Any], undisturbed: tuple[Path, bytes]
) -> None:
    path, _ = undisturbed
    assert cli("predict", "run", "1.png", "--append", "--output", path).code == 0
    assert cli("predict", "other", "1.png", "--output", path).code == 0
    assert cli("predict", "run", "1.png", "--append", "--output", path).code == 2


@pytest.mark.parametrize("damage", [b"no,row\r\n", b"[1]\n", b'{"file": 1}\n', b"\n", b'"\xff', b"x" * 2_000_000])
def test_a_damaged_file_stays_as_it_is(cli: Callable[..., Any], undisturbed: tuple[Path, bytes], damage: bytes) -> None:
    path, whole = undisturbed
    cli("predict", "run", *IMAGES, "--append", "--output", path)
    damaged = whole + damage + b"x" * (1 << 20) + whole
    path.write_bytes(damaged)
    done = cli("predict", "run", *IMAGES, "--append", "--output", path)
    assert (done.code, path.read_bytes() == damaged) == (2, True)
    assert f"has something other than a row of answers at byte {len(whole):,}" in done.err


def test_text_that_is_no_row_is_not_removed(cli: Callable[..., Any], undisturbed: tuple[Path, bytes]) -> None:
    path, _ = undisturbed
    cli("predict", "run", *IMAGES, "--append", "--output", path)
    path.write_text("very important text of mine, without a line's end")
    done = cli("predict", "run", *IMAGES, "--append", "--output", path)
    assert (done.code, path.read_text()) == (2, "very important text of mine, without a line's end")
    assert "has something other than a row of answers at byte 0" in done.err


def test_two_at_once(cli: Callable[..., Any], undisturbed: tuple[Path, bytes]) -> None:
    fcntl = pytest.importorskip("fcntl")
    path, _ = undisturbed
    with path.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        done = cli("predict", "run", "1.png", "--append", "--output", path)
    assert (done.code, done.err) == (5, f"error: another process writes to {path}; wait for it\n")


def test_a_writer_wants_the_file_for_itself(cli: Callable[..., Any], undisturbed: tuple[Path, bytes]) -> None:
    """Somebody who only reads under a lock is not written to behind their back; nor would a second writer be."""
    fcntl = pytest.importorskip("fcntl")
    path, _ = undisturbed
    with path.open("ab") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        done = cli("predict", "run", "1.png", "--append", "--output", path)
    assert (done.code, path.read_bytes()) == (5, b"")


SLOW_MODEL = """
import sys, time
import numpy as np
from cnn_tl.cli.app import main
from cnn_tl.inference import classifier, loading
from cnn_tl.core.preprocessing import Preprocessing

def logits(pixels):
    time.sleep(0.05)
    return np.stack([pixels.mean(axis=(1, 2, 3)) / 50, np.ones(len(pixels))], axis=1).astype(np.float32)

spec = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
loading.load = lambda source, device, **_: classifier.Classifier(("dark", "light"), spec, logits)
loading.digest = str
main()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_gone_on_with(cli: Callable[..., Any], undisturbed: tuple[Path, bytes], number: int) -> None:
    path, whole = undisturbed
    arguments = ["predict", "run", *IMAGES, "--append", "--output", str(path), "--batch-size", "1"]
    environment = os.environ | {"PYTHONPATH": str(Path(loading.__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW_MODEL, *arguments], env=environment, stderr=subprocess.DEVNULL
    ) as process:
        while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") > 3):
            time.sleep(0.01)
        process.send_signal(number)
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    assert whole.startswith(path.read_bytes())
    assert len(path.read_bytes()) < len(whole)
    assert json.loads(Path(f"{path}.append.json").read_text())["model"] == "run"
    assert cli("predict", "run", *IMAGES, "--append", "--output", path).code == 3
    assert path.read_bytes() == whole

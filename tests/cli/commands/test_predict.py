"""`cnn-tl predict` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from cnn_tl.cli.app import app
from cnn_tl.cli.commands import predict
from cnn_tl.core import device
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.inference import loading
from cnn_tl.inference.classifier import Classifier

SPEC = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
DARK = {"file": "photos/dark.png", "label": "dark", "probability": 0.989013}
DOUBT = {"verdict": "", "set": "", "distance": ""}
"""The cells of a model that knows neither sets nor distances."""

JUDGED = {"verdict": None, "set": None, "distance": None}
LIGHT = {"file": "photos/light.png", "label": "light", "probability": 0.989013}


def by_brightness(pixels: Any) -> Any:
    """Logits of a model with two classes: 4.5 for the nearer one."""
    light = pixels.mean(axis=(1, 2, 3)) > 128
    return np.where(np.stack([~light, light], axis=1), 4.5, 0).astype(np.float32)


@pytest.fixture(autouse=True)
def _model_and_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work beside a folder of three images, one of them broken; every model tells dark from light."""
    monkeypatch.chdir(tmp_path)
    photos = Path("photos")
    photos.mkdir()
    shades = Image.linear_gradient("L").resize((20, 20))
    shades.point(lambda value: value // 4).save(photos / "dark.png")
    shades.point(lambda value: 255 - value // 4).save(photos / "light.png")
    Image.effect_noise((64, 64), 50).save("broken.png")
    (photos / "broken.png").write_bytes(Path("broken.png").read_bytes()[:500])
    model = Classifier(("dark", "light"), SPEC, by_brightness)
    monkeypatch.setattr(loading, "load", lambda source, device, **_: model)


def test_table(cli: Callable[..., Any]) -> None:
    """Case 64: the good rows are written, the bad one says why, and the exit code is that of bad data."""
    done = cli("predict", "run", "photos", "--top", 2)
    assert done.out.splitlines() == [
        "file               label  probability",
        "photos/broken.png  error: truncated PNG",
        "photos/dark.png    dark         98.9%  light 1.1%",
        "photos/light.png   light        98.9%  dark 1.1%",
    ]
    assert done.err == "error: 1 of 3 images could not be read; its row says why\n"
    assert done.code == 3


def test_an_image_that_shows_nothing_is_named_beside_its_row(cli: Callable[..., Any]) -> None:
    Image.new("RGBA", (20, 20)).save("photos/empty.png")
    done = cli("predict", "run", "photos/empty.png", "photos/dark.png", "--format", "csv")
    assert len(done.out.splitlines()) == 3
    assert " ".join(done.err.split()) == (
        "warning: images that are completely transparent, and so white: 1 (photos/empty.png)"
    )
    assert done.code == 0


def test_wide_characters_keep_the_columns(cli: Callable[..., Any]) -> None:
    Path("photos/dark.png").rename("暗い.png")
    done = cli("predict", "run", "暗い.png", "photos/light.png")
    assert done.out.splitlines()[1:] == [
        "暗い.png          dark         98.9%",
        "photos/light.png  light        98.9%",
    ]


def test_json(cli: Callable[..., Any]) -> None:
    done = cli("predict", "run", "photos/*.png", "--format", "json", "--top", 5)
    broken, dark, light = json.loads(done.out)
    assert dark == DARK | JUDGED | {
        "top": [{"label": "dark", "probability": 0.989013}, {"label": "light", "probability": 0.010987}],
        "error": None,
    }
    assert light | LIGHT == light
    assert broken == {
        "file": "photos/broken.png", "label": None, "probability": None, "top": [], "error": "truncated PNG",
        "verdict": None, "set": None, "distance": None,
    }  # fmt: skip
    assert done.code == 3
    assert cli("predict", "run", "photos/*.png", "--json", "--top", 5).out == done.out
    refused = cli("predict", "run", "photos/*.png", "--json", "--format", "csv")
    assert (refused.code, refused.err) == (2, "error: --json contradicts --format csv; leave one of them out\n")


def test_json_lines(cli: Callable[..., Any]) -> None:
    done = cli("predict", "run", "photos/light.png", "photos/dark.png", "--format", "jsonl")
    light, dark = map(json.loads, done.out.splitlines())
    assert (light | LIGHT, dark | DARK) == (light, dark)
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize("top", [1, 2, 5])
def test_csv(cli: Callable[..., Any], top: int) -> None:
    done = cli("predict", "run", "photos/dark.png", "photos/broken.png", "--format", "csv", "--top", top)
    second = {"label_2": "light", "probability_2": "0.010987"} if top > 1 else {}
    dark, broken = csv.DictReader(io.StringIO(done.out))
    assert dark == {**DARK, "probability": "0.989013", **second, **DOUBT, "error": ""}
    assert broken == {**dict.fromkeys(dark, ""), "file": "photos/broken.png", "error": "truncated PNG"}


@pytest.mark.parametrize(
    ("name", "flags", "start"),
    [
        ("answers.csv", (), "file,label,probability,verdict,set,distance,error\r\n"),
        ("answers.JSONL", (), '{"file": "photos/dark.png"'),
        ("new/answers.json", (), '[\n  {\n    "file"'),
        ("answers.txt", (), "file "),
        ("answers.csv", ("--format", "jsonl"), '{"file"'),
    ],
)
def test_output(cli: Callable[..., Any], name: str, flags: tuple[str, ...], start: str) -> None:
    done = cli("predict", "run", "photos/dark.png", "--output", name, *flags)
    assert (done.code, done.out, done.err) == (0, "", f"the answers are in {name}\n")
    assert Path(name).read_bytes().decode().startswith(start)


def test_output_is_written_when_a_image_is_broken(cli: Callable[..., Any]) -> None:
    assert cli("predict", "run", "photos", "--output", "answers.jsonl").code == 3
    assert len(Path("answers.jsonl").read_text().splitlines()) == 3


def test_output_is_whole_or_absent(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pixels: Any) -> Any:
        raise KeyboardInterrupt

    model = Classifier(("dark", "light"), SPEC, fail)
    monkeypatch.setattr(loading, "load", lambda source, device, **_: model)
    Path("answers.csv").write_text("older")
    assert cli("predict", "run", "photos/dark.png", "--output", "answers.csv").code == 130
    assert Path("answers.csv").read_text() == "older"
    assert sorted(path.name for path in Path().iterdir()) == ["answers.csv", "broken.png", "photos"]


@pytest.mark.parametrize("name", ["photos/dark.png", "new.JPG", "photos", "/dev/null"])
def test_output_must_not_take_such_a_name(cli: Callable[..., Any], name: str) -> None:
    done = cli("predict", "run", "photos/dark.png", "--output", name)
    assert done.code == 2
    assert re.fullmatch(rf"error: --output {name} is (named like an image|not a regular file); .*\n", done.err)
    assert Path("photos/dark.png").read_bytes().startswith(b"\x89PNG")


def test_names_are_escaped_for_people_only(cli: Callable[..., Any]) -> None:
    """Case 16: a newline and bytes that are no UTF-8 in a file name."""
    name = b"two\nlines\xff.png".decode("utf-8", "surrogateescape")
    Path("photos/dark.png").rename(name)
    done = cli("predict", "run", name)
    assert done.out.splitlines()[1] == "two\\nlines\\udcff.png  dark         98.9%"
    (answer,) = json.loads(cli("predict", "run", name, "--format", "json").out)
    assert answer["file"] == name
    assert cli("predict", "run", name, "--output", "answers.csv").code == 0
    assert Path("answers.csv").read_bytes().splitlines()[2].startswith(b'lines\xff.png",dark,0.98')


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["absent.png"], 3, "1 of 1 image could not be read; its row says why"),
        (["photos/*.webp"], 3, "no image matches photos/*.webp"),
        (["photos", "--top", "0"], 2, "Invalid value for '--top'"),
        (["photos", "--format", "xml"], 2, "Invalid value for '--format'"),
        ([], 2, "Missing argument 'IMAGES'"),
    ],
)
def test_refusals(cli: Callable[..., Any], arguments: list[str], code: int, message: str) -> None:
    done = cli("predict", "run", *arguments)
    assert (done.code, done.err.startswith(f"error: {message}")) == (code, True), done.err
    assert done.err.count("\n") == 1


def test_no_recursive(cli: Callable[..., Any]) -> None:
    done = cli("predict", "run", ".", "--no-recursive", "--format", "csv")
    assert [row["file"] for row in csv.DictReader(io.StringIO(done.out))] == ["broken.png"]


CONSTANT_MODEL = """
import sys, time
import numpy as np
from cnn_tl.cli.app import main
from cnn_tl.inference import classifier, loading
from cnn_tl.core.preprocessing import Preprocessing

def logits(pixels):
    time.sleep(PAUSE)
    return np.stack([pixels.mean(axis=(1, 2, 3)) / 100, np.ones(len(pixels))], axis=1).astype(np.float32)

spec = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
model = classifier.Classifier(("a", "b"), spec, logits)
loading.load = lambda source, device, **_: model
loading.digest = str
main()
"""


def start(*arguments: object, pause: float = 0.0, **more: Any) -> subprocess.Popen[str]:
    """Start the command with a model that thinks for so many seconds about a batch."""
    return subprocess.Popen(
        [sys.executable, "-c", CONSTANT_MODEL.replace("PAUSE", str(pause)), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(loading.__file__).parents[2])},
        **more,
    )


def test_reader_that_leaves_early_is_no_error() -> None:
    """What `cnn-tl predict ... | head -1` does: stdout is closed while answers are still to come."""
    arguments = ["predict", "run", *["photos/dark.png"] * 2000, "--format", "jsonl"]
    with start(*arguments) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["label"] == "b"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0


def test_stdin_is_answered_while_it_stays_open() -> None:
    with start("predict", "run", "-", "--format", "jsonl", stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        for name, label in [("photos/dark.png", "b"), ("photos/light.png", "a"), ("absent.png", None)]:
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())  # it would wait for ever for an answer that waits
            assert (answer["file"], answer["label"]) == (name, label)
        process.stdin.close()
        assert process.stderr.read() == "error: 1 of 3 images could not be read; its row says why\n"
        assert process.wait() == 3


@pytest.mark.parametrize(
    ("content", "flags", "code", "end"),
    [
        ("", (), 3, "error: stdin named no image"),
        ("http://example.com/a.jpg\n", (), 2, "is a URL, but only files are read; download it first"),
        ("photos/dark.png\0photos/light.png\0", ("--null",), 0, ""),
        ("photos/dark.png\n" * 100, (), 0, ""),
    ],
)
def test_stdin(content: str, flags: tuple[str, ...], code: int, end: str) -> None:
    process = start("predict", "run", "-", "--format", "csv", *flags, stdin=subprocess.PIPE)
    out, err = process.communicate(content)
    assert (process.returncode, err.rstrip("\n").endswith(end), err.count("\n")) == (code, True, int(bool(end))), err
    assert len(out.splitlines()) - 1 == content.count(".png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-", "photos"], "- reads the paths from stdin, so it excludes other images"),
        (["photos", "--null"], "--null concerns paths on stdin"),
        (["photos", "--append"], "--append adds rows to a file"),
        (["photos", "--append", "--output", "a.txt"], "--append adds rows to a file"),
        (["photos", "--append", "--output", "a.parquet"], "--append adds rows to a file"),
        (["photos", "--append", "--output", "a.html"], "--append adds rows to a file"),
        (["photos", "--format", "parquet"], "--format parquet needs a file"),
        (["http://example.com/a.jpg"], "http://example.com/a.jpg is a URL"),
    ],
)
def test_what_cannot_be_meant(cli: Callable[..., Any], arguments: list[str], message: str) -> None:
    done = cli("predict", "run", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith(f"error: {message}")


def test_the_flags_are_exactly_these() -> None:
    command = typer.main.get_command(app).commands["predict"]  # type: ignore[attr-defined]
    found = {name for p in command.params if p.param_type_name == "option" for name in p.opts}
    assert found == {
        "--top", "--format", "--output", "--append", "--null", "-0", "--batch-size", "--workers", "--device",
        "--recursive", "--json", "--max-error", "--unknown",
    }  # fmt: skip


def test_parquet(cli: Callable[..., Any]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    name = b"\xff.png".decode("utf-8", "surrogateescape")
    Path("photos/light.png").rename(name)
    done = cli("predict", "run", "photos", name, "--top", 2, "--output", "answers.parquet")
    assert done.code == 3
    rows = parquet.read_table("answers.parquet").to_pylist()
    nothing = dict.fromkeys(["label", "probability", "label_2", "probability_2", "verdict", "set", "distance"])
    assert rows[0] == {"file": "photos/broken.png", **nothing, "error": "truncated PNG"}
    assert rows[1] == {**DARK, "label_2": "light", "probability_2": 0.010987, **JUDGED, "error": None}
    assert [row["file"] for row in rows] == ["photos/broken.png", "photos/dark.png", "\\udcff.png"]


def test_parquet_is_written_in_groups(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("cnn_tl.inference.writers.ROWS_IN_GROUP", 3)
    assert cli("predict", "run", *["photos/dark.png"] * 7, "--output", "answers.parquet").code == 0
    written = pq.ParquetFile("answers.parquet")
    assert [written.metadata.row_group(n).num_rows for n in range(written.num_row_groups)] == [3, 3, 1]


def test_parquet_without_pyarrow(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    done = cli("predict", "run", "photos", "--output", "answers.parquet")
    assert (done.code, done.out) == (5, "")
    assert done.err == "error: --format parquet needs pyarrow, which is not installed: pip install pyarrow\n"


def test_a_gpu_that_only_torch_could_use_is_noted(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "nvidia_devices", lambda: ["/dev/nvidia0"])
    monkeypatch.setattr(device, "installed_version", lambda name: None)
    assert "torch, which would use it, is not installed" in " ".join(
        cli("predict", "run", "photos/dark.png").err.split()
    )
    for words in (["run", "photos/dark.png", "--device", "cpu"], ["model.onnx", "photos/dark.png"]):
        assert "torch" not in cli("predict", *words).err


def test_html_holds_the_images_themselves(cli: Callable[..., Any]) -> None:
    done = cli("predict", "run", "photos", "--top", 2, "--output", "answers.html")
    assert (done.code, done.out) == (3, "")
    page = Path("answers.html").read_text("utf-8")
    assert (page.count('<li class="card"'), page.count("data:image/webp;base64,")) == (3, 2)
    assert page.count("98.9%") == 2
    assert '<p class="problem">truncated PNG</p>' in page
    assert cli("predict", "run", "photos", "--top", 2, "--format", "html").out == page


@pytest.mark.parametrize(
    ("name", "message"), [("notes.html", "is not a page of cnn-tl"), ("a.csv", "choose a name that ends in .html")]
)
def test_html_replaces_only_a_page(cli: Callable[..., Any], name: str, message: str) -> None:
    Path("notes.html").write_text("<html>mine</html>", "utf-8")
    done = cli("predict", "run", "photos", "--format", "html", "--output", name)
    assert (done.code, message in done.err) == (2, True)
    assert Path("notes.html").read_text("utf-8") == "<html>mine</html>"
    assert not Path("a.csv").exists()
    for _ in range(2):
        assert "the answers are in page.html" in cli("predict", "run", "photos", "--output", "page.html").err


def test_html_of_an_image_that_is_gone_meanwhile(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def remove_and_answer(pixels: Any) -> Any:
        Path("photos/dark.png").unlink()
        return by_brightness(pixels)

    model = Classifier(("dark", "light"), SPEC, remove_and_answer)
    monkeypatch.setattr(loading, "load", lambda source, device, **_: model)
    assert cli("predict", "run", "photos/dark.png", "--output", "answers.html").code == 0
    assert "no preview" in Path("answers.html").read_text("utf-8")


def test_html_is_not_printed_on_a_terminal(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "sys", SimpleNamespace(stdout=SimpleNamespace(isatty=lambda: True), stdin=None))
    done = cli("predict", "run", "photos", "--format", "html")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: --format html writes a page: give --output FILE.html\n"

"""Names and texts are UTF-8 in any locale, and what Windows editors save is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cnn_tl.core import text_encoding

NAMES = ["café", "naïve façade", "Ελλάδα", "日本", "raw \udcff\udce9", "plain"]


@pytest.fixture(params=[("ascii", "surrogateescape"), ("iso8859-1", "surrogateescape"), ("euc_jp", "surrogateescape")])
def locale(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Let Python decode file names in another way than as UTF-8."""
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: request.param[0])
    monkeypatch.setattr(sys, "getfilesystemencodeerrors", lambda: request.param[1])
    return request.param


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_the_same_in_every_locale(locale: tuple[str, str], name: str) -> None:
    exact = name.encode("utf-8", "surrogateescape")
    here = exact.decode(*locale)
    assert text_encoding.portable(here) == name
    assert text_encoding.native(name) == here


@pytest.mark.parametrize("name", NAMES)
def test_where_names_are_utf8_they_stay(name: str) -> None:
    assert (text_encoding.portable(name), text_encoding.native(name)) == (name, name)


def test_starts_again_in_utf8_once(locale: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(os, "execv", lambda *call: calls.append(call))
    monkeypatch.setattr(sys, "orig_argv", ["python3", "-m", "cnn_tl", "predict", "caf\udcc3\udca9"])
    monkeypatch.setenv("PYTHONUTF8", "0")
    text_encoding.restart_in_utf8()
    assert calls == [(sys.executable, [sys.executable, "-X", "utf8", "-m", "cnn_tl", "predict", "caf\udcc3\udca9"])]
    assert os.environ["PYTHONUTF8"] == "1"
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "UTF-8")
    text_encoding.restart_in_utf8()
    assert len(calls) == 1


def without_utf8(command: list[str], cwd: Path) -> subprocess.CompletedProcess[bytes]:
    root = str(Path(text_encoding.__file__).parents[2])
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": root}
    return subprocess.run([os.fsencode(sys.executable), *command], capture_output=True, cwd=cwd, env=environment)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere names are UTF-8")
def test_the_command_and_python_in_a_locale_without_utf8(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    make_images(tmp_path / "data", {"café": 3, "thé": 3, "\udcff": 3})
    (tmp_path / "ré.yaml").write_text("mode: no such\n")
    told = without_utf8(["-m", "cnn_tl", "recipes", "validate", "ré.yaml"], tmp_path)
    assert told.returncode == 2
    assert "ré.yaml:" in (told.stdout + told.stderr).decode()

    scan = (
        "import json, sys; from pathlib import Path; from cnn_tl.data.folders.scan import scan\n"
        "assert sys.getfilesystemencoding() == 'ascii'\n"
        "found = scan(Path('data'), seed=0, val_fraction=0.3, workers=0)\n"
        "assert all(found.file(image).is_file() for image in found.images)\n"
        "print(json.dumps([found.classes, sorted({p.path.split('/')[0] for p in found.images})]))"
    )
    done = without_utf8(["-c", scan], tmp_path)
    assert json.loads(done.stdout) == [["café", "thé", "\udcff"]] * 2, done.stderr


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be with mark"])
@pytest.mark.parametrize("text", ["", "mode: freeze\r\n", "data:\n  path: Fotos/Größe\n", "𝄞" * 50])
def test_texts_of_windows_editors(tmp_path: Path, codec: str, text: str) -> None:
    data = ("\ufeff" + text).encode("utf-16-be") if "mark" in codec else text.encode(codec)
    (tmp_path / "text").write_bytes(data)
    assert text_encoding.read_text(tmp_path / "text", 100) == text
    assert len(text_encoding.read_text(tmp_path / "text", 5)) > 5 or len(text) <= 5


@pytest.mark.parametrize("data", [b"caf\xe9", b"\xff\xfea\x00b", b"\x80abc"])
def test_other_encodings_are_refused_not_guessed(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "text").write_bytes(data)
    with pytest.raises(UnicodeDecodeError):
        text_encoding.read_text(tmp_path / "text", 100)


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16"])
def test_recipes_and_kernels_of_windows_editors(cli: Callable[..., Any], tmp_path: Path, codec: str) -> None:
    (tmp_path / "a.yaml").write_text("mode: finetune\r\ntrain:\r\n  epochs: 3\r\n", codec, newline="")
    assert cli("recipes", "validate", tmp_path / "a.yaml").code == 0
    (tmp_path / "kernel.txt").write_text("-1 0 1\r\n-2 0 2\r\n-1 0 1\r\n", codec, newline="")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    done = cli("convolve", tmp_path / "a.png", "--kernel", tmp_path / "kernel.txt", "--output", tmp_path / "b.png")
    assert done.code == 0, done.err

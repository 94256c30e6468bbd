"""Failures that are not the file's fault: tried again, then exit 5, and never recorded."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from cnn_tl.core import files, retries
from cnn_tl.core.errors import BadImageError, DataError, ResourceError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.decoding.image import probe, read_image
from cnn_tl.data.folders.scan import scan
from cnn_tl.data.manifest import Manifest, verify_file
from cnn_tl.evaluating.labelled_images import TrainingData, find_labelled
from cnn_tl.inference import inputs, loading
from cnn_tl.inference.classifier import Classifier

SPEC = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
NUMBERS = [
    getattr(errno, name)
    for name in (
        "EIO", "ESTALE", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "ETIMEDOUT", "ENOTCONN", "EHOSTDOWN", "EBADMSG",
    )
]  # fmt: skip


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PAUSES", [0, 0])


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Let paths that contain a text fail so many times where they are opened and read, looked at, or listed."""

    def fail(matching: str, number: int, times: float, *, at: str = "open") -> list[str]:
        failed: list[str] = []

        def guard(real: Callable[..., Any]) -> Callable[..., Any]:
            def guarded(path: Any, *args: Any, **options: Any) -> Any:
                name = str(getattr(path, "name", path)) if isinstance(path, io.FileIO) else str(path)
                if matching in name and len(failed) < times:
                    failed.append(name)
                    raise OSError(number, os.strerror(number), name)
                return real(path, *args, **options)

            return guarded

        if at == "open":
            monkeypatch.setattr(Path, "open", guard(Path.open))
            monkeypatch.setattr(os, "open", guard(os.open))
            monkeypatch.setattr(retries, "_readinto", guard(retries._readinto))
        elif at == "stat":
            monkeypatch.setattr(os, "stat", guard(os.stat))
        else:
            monkeypatch.setattr(os, "scandir", guard(os.scandir))
        return failed

    return fail


def noisy(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return two classes of five images."""
    for number in range(10):
        place = tmp_path / "data" / ("cat" if number < 5 else "dog")
        place.mkdir(parents=True, exist_ok=True)
        noisy(number).save(place / f"{number}.png")
    return tmp_path / "data"


def scanned(root: Path) -> Manifest:
    return scan(root, seed=0, val_fraction=0.4, on_bad_image="skip")


@pytest.mark.parametrize("number", NUMBERS, ids=errno.errorcode.get)
@pytest.mark.parametrize("read", [probe, read_image])
def test_what_lasts_is_no_bad_image(
    folder: Path, failing: Callable[..., list[str]], number: int, read: Callable[[Path], Any]
) -> None:
    file = folder / "cat" / "0.png"
    failed = failing("0.png", number, 99)
    with pytest.raises(ResourceError, match=r"0\.png") as caught:
        read(file)
    assert caught.value.exit_code == 5
    assert os.strerror(number) in str(caught.value) or number == errno.ENOMEM
    assert len(failed) == 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
def test_a_moment_later_the_image_is_read(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whichever read it comes, and whatever the decoder makes of it."""
    file = tmp_path / "image"
    noisy(0).resize((300, 300)).save(file, kind)
    expected = read_image(file).tobytes()
    real = retries._readinto
    for fatal in range(1, 5):
        reads = 0

        def readinto(self: retries.Watched, buffer: Any, fatal: int = fatal) -> Any:
            nonlocal reads
            reads += 1
            if reads == fatal:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return real(self, buffer)

        monkeypatch.setattr(retries, "_readinto", readinto)
        assert read_image(file).tobytes() == expected


def test_what_a_decoder_swallows_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata that could not be read would leave a photograph on its side."""
    file = tmp_path / "image.png"
    noisy(0).save(file)
    opened: list[Any] = []

    def load(self: Any) -> Any:
        if not any(one is self for one in opened):
            opened.append(self)
            if len(opened) == 1:
                self.fp.raw.failure = OSError(errno.ESTALE, "stale")
        return real(self)

    real = PngImagePlugin.PngImageFile.load
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    read_image(file)
    assert len(opened) == 2


def test_memory_that_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy(0).save(tmp_path / "a.png")

    def load(self: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(ResourceError, match=r"a\.png: not enough memory"):
        read_image(tmp_path / "a.png")
    with pytest.raises(ResourceError, match="not enough memory"):
        read_image((tmp_path / "a.png").read_bytes())


def test_a_file_without_permission_and_a_drive_that_has_gone(
    folder: Path, failing: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing("0.png", errno.EACCES, 99)
    with pytest.raises(BadImageError, match="permission denied"):
        read_image(folder / "cat" / "0.png")
    with pytest.raises(DataError, match="cannot be read: Permission denied"):
        scanned(folder)
    real = os.stat

    def stat(path: Any, *args: Any, **options: Any) -> Any:
        if path == str(folder / "cat"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path, *args, **options)

    monkeypatch.setattr(os, "stat", stat)
    with pytest.raises(ResourceError, match="Permission denied"):
        read_image(folder / "cat" / "0.png")


@pytest.mark.parametrize("at", ["open", "stat", "scandir"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ETIMEDOUT], ids=errno.errorcode.get)
def test_a_scan_goes_on_or_ends_and_accuses_no_image(
    folder: Path, failing: Callable[..., list[str]], number: int, at: str
) -> None:
    expected = scanned(folder)
    failed = failing("cat", number, 2, at=at)
    assert scanned(folder) == expected
    assert failed
    failing("cat", number, 10**6, at=at)
    with pytest.raises(ResourceError, match=os.strerror(number)):
        scanned(folder)


@pytest.mark.parametrize("at", ["open", "stat", "scandir"])
def test_labelled_images_and_named_ones(folder: Path, failing: Callable[..., list[str]], at: str) -> None:
    failing("dog", errno.ESTALE, 2, at=at)
    asked = {"split": None, "training": TrainingData(frozenset(), {}), "limit": None, "workers": 0}
    assert len(find_labelled(folder, ["cat", "dog"], **asked).images) == 10  # type: ignore[arg-type]
    assert len(list(inputs.find([folder, str(folder / "dog" / "*.png")]))) == 15
    failing("dog", errno.ESTALE, 10**6, at=at)
    with pytest.raises(ResourceError, match=os.strerror(errno.ESTALE)):
        find_labelled(folder, ["cat", "dog"], **asked)  # type: ignore[arg-type]
    if at != "open":
        for name in (folder, str(folder / "dog" / "*.png")):
            with pytest.raises(ResourceError, match=os.strerror(errno.ESTALE)):
                list(inputs.find([name]))


def test_an_image_that_was_scanned_and_a_file_of_ours(folder: Path, failing: Callable[..., list[str]]) -> None:
    manifest = scanned(folder)
    image = manifest.of("train")[0]
    files.write_json(folder / "ours.json", {"a": 1})
    failing("ours.json", errno.EIO, 99)
    with pytest.raises(ResourceError, match="Input/output error"):
        files.read_json(folder / "ours.json")
    failing("cat", errno.ENOTCONN, 99, at="stat")
    with pytest.raises(ResourceError, match=os.strerror(errno.ENOTCONN)):
        verify_file(manifest.file(image), image)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let `predict` find a model that knows dark from light."""

    def by_brightness(pixels: Any) -> Any:
        return np.stack([pixels.mean(axis=(1, 2, 3)) / 50, np.ones(len(pixels))], axis=1).astype(np.float32)

    monkeypatch.setattr(loading, "load", lambda *_, **__: Classifier(("dark", "light"), SPEC, by_brightness))
    monkeypatch.setattr(loading, "digest", str)
    return iter(())


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EMFILE, errno.EIO], ids=errno.errorcode.get)
def test_append_tries_again_what_the_machine_could_not_read(
    folder: Path, failing: Callable[..., list[str]], cli: Callable[..., Any], number: int, tmp_path: Path
) -> None:
    command = ("predict", "run", folder, "--append", "--workers", 0, "--batch-size", 2)
    assert cli(*command, "--output", tmp_path / "whole.csv").code == 0
    failing("7.png", number, 3)
    answers = tmp_path / "answers.csv"
    stopped = cli(*command, "--output", answers)
    assert stopped.code == 5
    assert stopped.err.count("\n") <= 3
    assert "7.png cannot be read at the moment" in " ".join(stopped.err.split())
    assert "7.png" not in answers.read_text()
    assert cli(*command, "--output", answers).code == 0
    assert answers.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_run_ends_and_goes_on_with_all_its_images(
    folder: Path, failing: Callable[..., list[str]], cli: Callable[..., Any], tiny_weights: Path, tmp_path: Path
) -> None:
    """Images are looked at twice: when they are scanned, and when they are decoded."""
    run = tmp_path / "run"
    real = retries._readinto
    count, scan_reads = 0, float("inf")

    def readinto(self: retries.Watched, buffer: Any) -> Any:
        nonlocal count
        if "8.png" in str(self.name):
            count += 1
            if count > scan_reads:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(self, buffer)

    command = ("train", folder, "--model", "test_resnet", "--weights", tiny_weights, "--device", "cpu", "--output", run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retries, "_readinto", readinto)
        scanned(folder)
        count, scan_reads = 0, count
        stopped = cli(*command)
    assert stopped.code == 5, stopped.err
    assert "8.png cannot be read at the moment: Input/output error" in " ".join(stopped.err.split())
    manifest = files.read_json(run / "manifest.json")
    assert (len(manifest["images"]), manifest["set_aside"]) == (10, [])
    done = cli("train", "--resume", "--output", run)
    assert done.code == 0, done.err
    assert files.read_json(run / "manifest.json")["set_aside"] == []

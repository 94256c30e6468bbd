"""The disk fills up at each single file that a run writes: a real, really full file system in its own namespace.

What was there before stays as it was, nothing half-written lies about, one line says which file and how much room, and
with room again the run goes on to the bits of an undisturbed one.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cnn_tl.cli import app
from cnn_tl.core import files
from cnn_tl.training import estimate
from cnn_tl.training.step import precision

SIZE = "48m"
IN_A_NAMESPACE = ["unshare", "--map-root-user", "--mount"]
GOES_ON_WITHOUT = {"curves.png": "warning: the learning curves are not drawn: no space"}
"""A file that the run can do without -> the warning it then gives."""


class Disk:
    """A small file system that fills up just before the n-th file is written."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.filler = folder, folder / "filler"
        self.full_at, self.written = 0, 0
        self.file, self.before = Path(), {}
        self._atomic_path = files.atomic_path
        files.atomic_path = self._counting

    @contextlib.contextmanager
    def _counting(self, path: Path) -> Iterator[Path]:
        with self._atomic_path(path) as temporary:
            if path.is_relative_to(self.folder):
                self.written += 1
                if self.written == self.full_at:
                    self.file, self.before = path, self.whole_checkpoints()
                    self._fill()
            yield temporary

    def _fill(self) -> None:
        with self.filler.open("wb", buffering=0) as stream:
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while stream.write(bytes(size)) == size:
                        pass
        with (self.folder / "is it full").open("wb", buffering=0) as stream, pytest.raises(OSError, match="space"):
            stream.write(b"?")

    def whole_checkpoints(self) -> dict[str, str]:
        folders = [path for path in self.folder.glob("run/checkpoints/*") if (path / files.CHECKSUMS).exists()]
        return {str(file): files.sha256_file(file) for folder in folders for file in folder.iterdir()}


def command(*words: object) -> tuple[int, str]:
    """Run a command line in this process; return its exit code and what it wrote to stderr."""
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        code = app.run([str(word) for word in words])
    return code, said.getvalue()


def tell(row: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")


def drive(mode: str, data: str, weights: str, every: int) -> None:
    """Fill the disk at each `every`-th file of a run in turn, until something is wrong; report each as a JSON line."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", "."], check=True)
    os.chdir(Path.cwd())  # into what is mounted here now
    estimate.MEASURED_SECONDS, precision.ROUNDS = 0.0, 1  # as in the tests' own process
    disk, run = Disk(Path.cwd()), Path.cwd() / "run"
    words = ["train", data, "--mode", mode, "--model", "test_resnet", "--image-size", 64, "--weights", weights]
    words += ["--output", run, "--device", "cpu", "--batch-size", 8, *([] if mode == "freeze" else ["--epochs", 2])]
    code, said = command(*words)
    assert code == 0, said
    reference, count = (run / "model" / "model.safetensors").read_bytes(), disk.written
    tell({"files": count})
    for number in range(1, count + 1, every):
        subprocess.run(["rm", "-r", run], check=True)
        disk.written, disk.full_at = 0, number
        code, said = command(*words)
        last = said.strip().splitlines()[-1] if said.strip() else ""
        assert disk.filler.exists(), f"the file of number {number} was not written this time"
        assert code == 5, said
        assert last.startswith("error: no space to write "), said
        assert "bytes are needed, 0 bytes are free" in last, said
        if disk.file.name in GOES_ON_WITHOUT:  # to the next file, for which there is no room either
            assert GOES_ON_WITHOUT[disk.file.name] in said
        else:
            assert str(disk.file) in last, said
        after = disk.whole_checkpoints()
        assert {name: after.get(name) for name in disk.before} == disk.before
        assert not [path for path in run.rglob("*") if path.name.endswith(files.TEMPORARY_SUFFIX)]
        disk.filler.unlink()
        disk.full_at = 0
        begun = (run / "recipe.yaml").exists()
        code, said = command("train", "--resume", "--output", run) if begun else command(*words)
        assert code == 0, said
        assert (run / "model" / "model.safetensors").read_bytes() == reference
        tell({"number": number, "file": str(disk.file.relative_to(run)), "said": last})


@pytest.mark.usefixtures("graph_is_known")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("mode", "every"),
    [("finetune", 9), *(pytest.param(mode, 1, marks=pytest.mark.soak) for mode in ("freeze", "finetune", "lp-ft"))],
)
def test_each_file_may_find_no_room(data: Path, tiny_weights: Path, tmp_path: Path, mode: str, every: int) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with contextlib.suppress(OSError):
        allowed = subprocess.run([*IN_A_NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True)
        if allowed.returncode == 0:
            _drive_in_a_namespace(folder, mode, data, tiny_weights, every)
            return
    pytest.skip("this system lets nobody mount a small file system")


def _drive_in_a_namespace(folder: Path, mode: str, data: Path, weights: Path, every: int) -> None:
    here = Path(__file__).parent
    script = f"import test_full_disk as t; t.drive({mode!r}, {str(data)!r}, {str(weights)!r}, {every})"
    paths = os.pathsep.join([str(here), str(Path(app.__file__).parents[2])])
    done = subprocess.run(
        [*IN_A_NAMESPACE, sys.executable, "-c", script],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, *rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(range(1, first["files"] + 1, every))
    assert len({row["file"] for row in rows}) > 1


@pytest.fixture
def data(make_images: object, tmp_path: Path) -> Path:
    return make_images(tmp_path / "data", {"ash": 20, "birch": 15})  # type: ignore[operator,no-any-return]

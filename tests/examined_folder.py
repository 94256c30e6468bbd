"""A small data folder, and beside it what a doctor would have written about it, with every kind of suspect."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from cnn_tl.data.corrections import csv_row, written

CLASSES = ("cat", "dog", "<b>owl</b>")
GROUPS = 3
"""A leak that is a conflict too, a leak, and three copies in train: in this order."""


def write_examined_folder(where: Path, labels: int = 4, outliers: int = 2, classes: Sequence[str] = CLASSES) -> Path:
    """Write images into `where / "data"` and files into `where / "findings"`; return the latter.

    Args:
        labels, outliers: how many suspects of these kinds there are, beside the three groups of twins.
    """
    images: list[tuple[str, str]] = []
    for number in range(12):
        images.append((f"train/{written_folder(classes[number % 2])}/plain_{number}.png", classes[number % 2]))
    wrong = [(f"train/{written_folder(classes[n % 2])}/label {n}.png", classes[n % 2]) for n in range(labels)]
    odd = [(f"train/{written_folder(classes[0])}/odd_{n}.png", classes[0]) for n in range(outliers)]
    twins = [("train/cat/a.png", classes[0]), ("test/dog/a.png", classes[1])]
    twins += [("train/dog/b.png", classes[1]), ("test/dog/b.png", classes[1])]
    twins += [(f"train/cat/c{n}.png", classes[0]) for n in range(3)]
    everything = [*wrong, *odd, *twins, *images]
    for number, (path, _) in enumerate(everything):
        _draw(where / "data" / path, number)
    folder = where / "findings"
    folder.mkdir()
    suspects = {path for path, _ in wrong}
    others = {label: classes[(index + 1) % len(classes)] for index, label in enumerate(classes)}
    _table(
        folder / "labels.csv",
        "image,given,suggested,score,probability,suspect",
        [
            (path, label, others[label] if path in suspects else label, 5 - n / 1e3, 0.1, path in suspects)
            for n, (path, label) in enumerate(everything)
        ],
    )
    ends = [
        (twins[0], twins[1]),
        (twins[2], twins[3]),
        (twins[4], twins[5]),
        (twins[5], twins[6]),
        (images[0], images[2]),
    ]
    _table(
        folder / "twins.csv",
        "image_a,image_b,split_a,split_b,kind,score,group,verified",
        [
            (a[0], b[0], a[0].split("/")[0], b[0].split("/")[0], "near", 1 - n / 10, n, n < 4)
            for n, (a, b) in enumerate(ends)
        ],
    )
    _table(
        folder / "outliers.csv", "image,class,kind,score,value", [(path, label, "dark", 9, 0.01) for path, label in odd]
    )
    (folder / "exclude.txt").write_text("# extra copies\n", "utf-8")
    (folder / "relabel.csv").write_text("image,label\n", "utf-8")
    summary = {"data": {"root": str(where / "data")}, "classes": list(classes)}
    (folder / "summary.json").write_text(json.dumps(summary), "utf-8")
    return folder


@contextmanager
def reviewing(folder: Path, command: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `cnn-tl review` on any port in a process of its own; yield the process and the address of the page."""
    command = command or [sys.executable, "-m", "cnn_tl", "review", str(folder), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http://127.0.0.1:" in line, (line, process.communicate(timeout=60))
        yield process, line.split(" at ")[1].partition(";")[0]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def written_folder(label: str) -> str:
    """Return the folder of a class; a name with a slash can be none."""
    return label.replace("/", "_")


def rows(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file without its header."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.reader(stream))[1:]


def excluded(folder: Path) -> list[str]:
    """Return the lines of exclude.txt that are no comments."""
    return [line for line in (folder / "exclude.txt").read_text("utf-8").splitlines() if not line.startswith("#")]


def _table(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    texts = [[written(value) if isinstance(value, str) else value for value in row] for row in rows]
    path.write_text(f"{header}\n" + "".join(map(csv_row, texts)), "utf-8")


def _draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).resize((64, 48), Image.Resampling.NEAREST).save(path)

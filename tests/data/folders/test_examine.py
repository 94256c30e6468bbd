from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from cnn_tl.data.decoding.image import ImageLimits
from cnn_tl.data.folders import examine
from cnn_tl.data.folders.examine import Candidate, Pace, examine_all
from cnn_tl.data.manifest import ImageRecord, SetAside


def candidates(folder: Path, count: int) -> list[Candidate]:
    found = []
    for number in range(count):
        file = folder / f"{number}.png"
        Image.new("L", (8, 8), number % 256).save(file)
        found.append(Candidate(str(file), f"a/{file.name}", 0, "train"))
    return found


def records(found: list[examine.Examined]) -> list[ImageRecord | SetAside]:
    return [one.entry for one in found]


@pytest.mark.parametrize("workers", [0, 1, 4, 40])
def test_entries_hold_what_the_files_hold(tmp_path: Path, workers: int) -> None:
    some = candidates(tmp_path, 400)
    Path(some[7].name).write_bytes(b"broken")
    for one, entry in zip(some, records(examine_all(some, ImageLimits(), workers)), strict=True):
        file = Path(one.name)
        assert entry.path == one.path
        assert entry.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
        if isinstance(entry, ImageRecord):
            assert (entry.bytes, entry.mtime_ns) == (file.stat().st_size, file.stat().st_mtime_ns)
        else:
            assert one is some[7]
            assert entry.reason == "is text, not an image"


def test_a_large_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its header may lie behind the first piece."""
    some = candidates(tmp_path, 2)
    with Image.open(some[1].name) as image:
        image.save(some[1].name, "PNG", icc_profile=bytes(range(256)) * 64)
    expected = records(examine_all(some, ImageLimits(), 0))
    monkeypatch.setattr(examine, "_HEAD", 50)
    assert records(examine_all(some, ImageLimits(), 0)) == expected
    assert isinstance(expected[1], ImageRecord)


def test_files_that_make_readers_wait_are_read_by_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some, real, alone = candidates(tmp_path, 600), examine._read, 0
    main = threading.get_ident()

    def slow(name: str) -> object:
        nonlocal alone
        alone += threading.get_ident() == main
        time.sleep(0.002)
        return real(name)

    monkeypatch.setattr(examine, "_read", slow)
    examine_all(some, ImageLimits(), 2)
    assert 0 < alone < 200


def test_the_faster_way_reads_most_files_and_the_other_is_tried_again() -> None:
    pace, rates = Pace(alone=False), {"alone": 9000.0, "together": 1000.0}
    read = dict.fromkeys(rates, 0)
    seconds = dict.fromkeys(rates, 0.0)
    for turn in range(400):
        if turn == 200:  # from here on the files have to be fetched
            rates["alone"], before = 100.0, dict(read)
        way, length = pace.choose()
        pace.record(way, length, length / rates[way])
        read[way] += length
        seconds[way] += length / rates[way]
    assert before["together"] < 0.1 * before["alone"]
    assert read["alone"] - before["alone"] < 0.1 * (read["together"] - before["together"])
    assert before["together"] > 2 * 256


def test_one_thread_reads_alone() -> None:
    pace = Pace(alone=True)
    for _ in range(5):
        way, length = pace.choose()
        assert way == "alone"
        pace.record(way, length, 1.0)

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, ResourceError

pytestmark = pytest.mark.usefixtures("fsync")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError, match="interrupted"), files.atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError("interrupted")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_said_with_path_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model.bin"
    files.write_bytes(target, b"good")

    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    said = r"no space to write .*model\.bin; 1,000 bytes are needed, [\d,]+ bytes are free"
    with pytest.raises(ResourceError, match=said):
        files.write_bytes(target, bytes(1000))
    assert target.read_bytes() == b"good"
    assert [p.name for p in tmp_path.iterdir()] == ["model.bin"]


def test_a_used_up_quota_says_nothing_of_what_is_free_on_the_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(ResourceError, match=r"^cannot write .*model\.bin: Disk quota exceeded; remove"),
        files.disk_errors(tmp_path / "model.bin", 1000),
    ):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


def test_undecodable_names_survive_json(tmp_path: Path) -> None:
    name = b"caf\xe9.png".decode("utf-8", "surrogateescape")
    files.write_json(tmp_path / "x.json", {"name": name})
    assert files.read_json(tmp_path / "x.json") == {"name": name}


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000])
def test_damaged_json(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ArtefactError, match=r"x\.json is damaged"):
        files.read_json(tmp_path / "x.json")


def test_checksums_notice_every_kind_of_damage(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    files.write_bytes(folder / "a", b"12345")
    files.write_bytes(folder / "b", b"67890")
    files.write_checksums(folder)
    files.verify_checksums(folder)
    for damage in (b"12346", b"1234", b""):
        (folder / "a").write_bytes(damage)
        with pytest.raises(ArtefactError, match="differs from its checksum"):
            files.verify_checksums(folder)
    (folder / "a").unlink()
    with pytest.raises(ArtefactError, match="missing"):
        files.verify_checksums(folder)


@pytest.mark.parametrize("text", ["", "short", "0" * 64 + "  ../outside\n"])
def test_a_bad_list_of_checksums_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "outside").write_text("x")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / files.CHECKSUMS).write_text(text)
    with pytest.raises(ArtefactError):
        files.verify_checksums(tmp_path / "f")


def test_a_list_of_checksums_must_have_what_is_required(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "f" / "a", b"12345")
    files.write_checksums(tmp_path / "f")
    files.verify_checksums(tmp_path / "f", required=["a"])
    with pytest.raises(ArtefactError, match="does not list b"):
        files.verify_checksums(tmp_path / "f", required=["a", "b"])


def test_writers_of_one_folder_do_not_disturb_each_other(tmp_path: Path) -> None:
    def write(name: str) -> None:
        for _ in range(20):
            with files.atomic_folder(tmp_path / "final") as fresh:
                for part in ("a", "b"):
                    files.write_text(fresh / part, name)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(write, ("one", "two", "three")))
    files.verify_checksums(tmp_path / "final", required=["a", "b"])
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_a_folder_that_comes_and_goes_at_the_moment_of_replacing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second process puts its folder there, which makes the rename fail, and a third one moves it away."""
    rename, refused = Path.replace, [errno.ENOTEMPTY, errno.EEXIST]

    def replace(path: Path, target: Path) -> Path:
        if target.name == "final" and refused:
            raise OSError(refused.pop(), "Directory not empty")
        return rename(path, target)

    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "x").write_text("new")
    monkeypatch.setattr(Path, "replace", replace)
    files.replace_folder(tmp_path / "fresh", tmp_path / "final")
    assert not refused
    assert (tmp_path / "final" / "x").read_text() == "new"


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "x").write_text("old")
    with pytest.raises(ResourceError, match="cannot write"):
        files.replace_folder(tmp_path / "absent", tmp_path / "final")
    assert (tmp_path / "final" / "x").read_text() == "old"


def test_replace_folder(tmp_path: Path) -> None:
    for generation in ("one", "two"):
        fresh = tmp_path / "fresh"
        fresh.mkdir()
        (fresh / "x").write_text(generation)
        files.replace_folder(fresh, tmp_path / "final")
    assert (tmp_path / "final" / "x").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_a_place_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match=r"cannot write .*file/below"):
        files.write_text(tmp_path / "file" / "below", "y")

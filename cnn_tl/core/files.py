"""Files that are either complete or absent: atomic writes, checksums, JSON and safetensors.

Every write goes to a temporary file in the same folder, is flushed and fsynced, takes its name by `os.replace`, and the
folder is fsynced after it. A kill at any moment leaves the old file or the new one, never half of either.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.core.errors import ArtefactError, ResourceError, printable
from cnn_tl.core.retries import retried
from cnn_tl.core.tensor_file import array_pieces, tensor_pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

CHECKSUMS = "SHA256SUMS"
TEMPORARY_SUFFIX = ".tmp"

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers for a full disk, or an exhausted quota of the user."""

REPLACING_ATTEMPTS = 20
"""How often a rename is repeated because another process has just created the folder."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield an empty temporary file beside `path`; it is renamed to `path` after the block, or removed after an error.

    Raises:
        ResourceError: the disk is full or the folder cannot be written.
    """
    temporary = _temporary(path)
    try:
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch()
        yield temporary
        with disk_errors(path):
            _fsync(temporary)
            temporary.replace(path)
            _fsync(path.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path, needed: int | None = None) -> Iterator[None]:
    """Turn the operating system's errors while writing `path` into a `ResourceError` that says what to do."""
    try:
        yield
    except OSError as error:
        where = printable(path)
        if error.errno == errno.EDQUOT:  # the user's quota, whatever is free on the disk
            raise ResourceError(
                f"cannot write {where}: {error.strerror}; remove files of yours, or choose another --output"
            ) from error
        if error.errno in NO_SPACE:
            needs = f"; {needed:,} bytes are needed" if needed is not None else ""
            raise ResourceError(
                f"no space to write {where}{needs}, {_free_bytes(path):,} bytes are free; "
                "free some space or choose another --output"
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise ResourceError(f"cannot write {where}: {error.strerror}; choose another --output") from error
        raise ResourceError(f"cannot write {where}: {error.strerror or error}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary, disk_errors(path, len(data)):
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    write_bytes(path, text.encode("utf-8", "surrogatepass"))


def write_json(path: Path, value: object) -> None:
    """Write `value` as JSON; undecodable file names survive because all characters beyond ASCII are escaped."""
    write_text(path, as_json(value))


def as_json(value: object) -> str:
    """Return the contents of a JSON file."""
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file that cnn-tl has written.

    Raises:
        ArtefactError: it is missing or is not JSON.
        ResourceError: the machine could not read it, even after several attempts.
    """
    try:
        return json.loads(read_bytes(path))
    except FileNotFoundError as error:
        raise ArtefactError(f"{printable(path)} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArtefactError(f"{printable(path)} is damaged: {error}") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as safetensors, atomically."""
    _write_pieces(path, tensor_pieces(tensors, metadata or {}))


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write numpy arrays as safetensors, atomically."""
    _write_pieces(path, array_pieces(arrays, metadata or {}))


def _write_pieces(path: Path, pieces: Sequence[bytes | memoryview]) -> None:
    with atomic_path(path) as temporary, disk_errors(path, sum(map(len, pieces))), temporary.open("wb") as stream:
        for piece in pieces:
            stream.write(piece)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file onto the CPU.

    Raises:
        ArtefactError: it is missing, truncated or not safetensors.
    """
    from safetensors.torch import load_file

    return _read_whole(path, load_file)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read a safetensors file as numpy arrays, without torch.

    Raises:
        ArtefactError: it is missing, truncated, not safetensors, or has a type that numpy lacks, such as bf16.
    """
    from safetensors.numpy import load_file

    return _read_whole(path, load_file)


def _read_whole(path: Path, load: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    from safetensors import SafetensorError

    try:
        return retried(lambda: load(path), path)
    except FileNotFoundError as error:
        raise ArtefactError(f"{printable(path)} is missing") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ArtefactError(f"{printable(path)} is not a whole safetensors file: {error}") from error


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        OSError: it cannot be read.
        ResourceError: the machine could not read it, even after several attempts.
    """
    return retried(path.read_bytes, path)


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        OSError: it cannot be read.
        ResourceError: the machine could not read it, even after several attempts.
    """

    def digest() -> str:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    return retried(digest, path)


def write_checksums(folder: Path) -> None:
    """Write `SHA256SUMS` for the files directly in `folder`, in the format of `sha256sum -c`."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != CHECKSUMS)
    write_text(folder / CHECKSUMS, "".join(f"{sha256_file(folder / name)}  {name}\n" for name in names))


def verify_checksums(folder: Path, required: Iterable[str] = (), ignoring: Container[str] = ()) -> None:
    """Check every file in the folder's `SHA256SUMS`.

    Args:
        required: names that the list must contain.
        ignoring: names of files that may have been changed or removed.

    Raises:
        ArtefactError: the list is missing or lacks a required name, or a file is missing or differs.
    """
    sums = folder / CHECKSUMS
    try:
        lines = read_bytes(sums).decode("utf-8").splitlines()
        pairs = [(line[:64], line[66:]) for line in lines]
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{printable(sums)} cannot be read: {error}") from error
    if not pairs:
        raise ArtefactError(f"{printable(sums)} is empty")
    if unlisted := set(required) - {name for _, name in pairs}:
        raise ArtefactError(f"{printable(sums)} does not list {', '.join(sorted(unlisted))}")
    for digest, name in pairs:
        if name in ignoring:
            continue
        path = folder / name
        if Path(name).name != name or not path.is_file() or sha256_file(path) != digest:
            raise ArtefactError(f"{printable(path)} is missing or differs from its checksum: damaged after writing")


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; after the block its checksums are written and it is renamed.

    It replaces an older folder of that name; see `replace_folder`. Several processes may write the same name.

    Raises:
        ResourceError: the disk is full or not writable; the older folder is untouched.
    """
    fresh = _temporary(folder)
    with disk_errors(folder):
        fresh.mkdir(parents=True)
    try:
        yield fresh
        with disk_errors(folder):
            write_checksums(fresh)
        replace_folder(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def replace_folder(fresh: Path, final: Path) -> None:
    """Rename the finished folder `fresh` to `final`; an older folder of that name is then removed.

    If several processes do so at the same time, the last one wins. A kill between the two renames leaves no `final`,
    and the older folder under a temporary name.

    Raises:
        ResourceError: it cannot be renamed.
    """
    with disk_errors(final):
        for attempt in range(REPLACING_ATTEMPTS):
            old = _temporary(final)
            with contextlib.suppress(FileNotFoundError):
                final.replace(old)
            try:
                fresh.replace(final)
                break
            except OSError as error:
                # do not check whether `final` exists: a third process may have just moved it away
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) and not final.is_dir():
                    with contextlib.suppress(OSError):
                        old.replace(final)
                    raise
                if attempt == REPLACING_ATTEMPTS - 1:
                    raise
            # another process has just created `final`, which is newer than the folder that was moved away
            shutil.rmtree(old, ignore_errors=True)
        _fsync(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files that killed writers have left in `folder`."""
    for path in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """Return a unique temporary name beside `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def _fsync(path: Path) -> None:
    if os.name == "nt":  # Windows cannot fsync a folder, and wants a writable handle for a file
        if path.is_dir():
            return
        descriptor = os.open(path, os.O_RDWR)
    else:
        descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot fsync a folder
            raise
    finally:
        os.close(descriptor)


def _free_bytes(path: Path) -> int:
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return 0

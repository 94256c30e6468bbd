"""Hostile weights files: no code in them runs, no size in them is trusted, and the refusal is one line."""

from __future__ import annotations

import functools
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cnn_tl.core.errors import ArtefactError
from cnn_tl.networks.pretrained import state_dict

LIMIT_MB = 200


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.call


def touch(canary: Path) -> Call:
    return Call(os.system, f"touch {canary}")


def saved(content: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse and TorchScript are announced as unstable or old
        torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def scripted(_: Path) -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), stream)
    return stream.getvalue()


def archive(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as made:
        for name, content in members:
            made.writestr(name, content)
    return stream.getvalue()


def tar(canary: Path) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as made:
        for name in ("pickle", "storages", "tensors"):
            content = pickle.dumps(touch(canary))
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@functools.cache
def zip_bomb() -> bytes:
    """A valid torch file whose only tensor is 400 MB of compressed zeros."""
    source = zipfile.ZipFile(io.BytesIO(saved({"w": torch.zeros(100_000_000)})))
    members = [(info.filename, source.read(info)) for info in source.infolist()]
    return archive(*members, compression=zipfile.ZIP_DEFLATED)


def csr_out_of_bounds(_: Path) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sparse = torch.sparse_csr_tensor([0, 1, 2], [0, 10**12], [1.0, 2.0], size=(2, 2), check_invariants=False)
    return saved({"w": sparse})


def legacy_storage_of_gigabytes(_: Path) -> bytes:
    content = saved({"w": torch.zeros(77)}, zipped=False)
    small, huge = b"K\x4d", b"\x8a\x04" + (10**9).to_bytes(4, "little")
    assert small in content
    return content.replace(small, huge)


def safetensors(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(shape: list[int], end: int) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}


PTH: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda _: b"",
    "html": lambda _: b"<!DOCTYPE html><title>404</title>",
    "pickle-os.system": lambda canary: pickle.dumps(touch(canary)),
    "pickle-eval": lambda canary: pickle.dumps(Call(eval, f"open({str(canary)!r}, 'w')")),
    "pickle-exec-protocol-0": lambda canary: pickle.dumps(Call(exec, f"open({str(canary)!r}, 'w')"), 0),
    "pickle-subprocess": lambda canary: pickle.dumps(Call(subprocess.check_call, ["touch", str(canary)])),
    "pickle-opcode-c": lambda canary: f"cos\nsystem\n(S'touch {canary}'\ntR.".encode(),
    "zip-os.system": lambda canary: saved({"w": torch.ones(2), "x": touch(canary)}),
    "zip-in-a-wrapper": lambda canary: saved({"state_dict": {"w": touch(canary)}}),
    "legacy-os.system": lambda canary: saved({"w": torch.ones(2), "x": touch(canary)}, zipped=False),
    "runpy": lambda canary: saved({"w": Call(__import__("runpy").run_path, str(canary))}),
    "whole-module": lambda _: saved(torch.nn.Linear(2, 2)),
    "legacy-tar": tar,
    "torchscript": scripted,
    "pt2": lambda _: archive(("archive_format", b"pt2"), ("models/model.json", b"{}"), ("version", b"0")),
    "zip-of-nothing": lambda _: archive(),
    "npz-like": lambda _: archive(("w.npy", b"\x93NUMPY")),
    "deep": lambda _: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "billion-element-view": lambda _: saved({"w": torch.zeros(1).expand(10**9)}),
    "zip-bomb": lambda _: zip_bomb(),
    "csr-out-of-bounds": csr_out_of_bounds,
    "sparse": lambda _: saved({"w": torch.eye(3).to_sparse()}),
    "meta": lambda _: saved({"w": torch.empty(10**12, device="meta")}),
    "legacy-storage-of-gigabytes": legacy_storage_of_gigabytes,
    "truncated": lambda _: saved({"w": torch.ones(1000)})[:-900],
    "truncated-legacy": lambda _: saved({"w": torch.ones(1000)}, zipped=False)[:-900],
    "safetensors-by-another-name": lambda _: safetensors(entry([1], 4), b"\0\0\0\0"),
}
SAFETENSORS: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda _: b"",
    "html": lambda _: b"<!DOCTYPE html><title>404</title>",
    "pickle": lambda canary: pickle.dumps(touch(canary)),
    "pth-by-another-name": lambda _: saved({"w": torch.ones(2)}),
    "header-of-2**62": lambda _: struct.pack("<Q", 2**62) + b"{}",
    "header-not-json": lambda _: struct.pack("<Q", 2) + b"{]",
    "beyond-the-end": lambda _: safetensors(entry([2**40], 2**42)),
    "overflowing-shape": lambda _: safetensors(entry([2**33, 2**33], 4), b"\0\0\0\0"),
    "shape-unlike-bytes": lambda _: safetensors(entry([2], 4), b"\0\0\0\0"),
    "truncated": lambda _: safetensors(entry([4], 16), b"\0" * 8),
    "nothing": lambda _: safetensors({}),
}
PAYLOADS = {f"{name}.pth": made for name, made in PTH.items()} | {
    f"{name}.safetensors": made for name, made in SAFETENSORS.items()
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_refused_and_nothing_ran(name: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / name
    path.write_bytes(PAYLOADS[name](canary))
    with pytest.raises(ArtefactError) as caught:
        state_dict.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 350
    assert "weights_only" not in str(caught.value), "torch's advice to read it unsafely is not passed on"
    assert not canary.exists()


MEASURE = """
import resource, sys
from pathlib import Path
from cnn_tl.core.errors import ArtefactError
from cnn_tl.networks.pretrained import state_dict
import timm.models
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        state_dict.read(Path(path))
        print("accepted", path)
    except ArtefactError:
        pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_no_bomb_takes_memory(tmp_path: Path) -> None:
    paths = []
    for name, made in PAYLOADS.items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(made(tmp_path / "canary"))
    command = [sys.executable, "-c", MEASURE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=True)
    assert int(done.stdout) < LIMIT_MB
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["zip-os.system.pth", "zip-bomb.pth", "header-of-2**62.safetensors"])
def test_exit_code_of_the_command(
    name: str, tmp_path: Path, cli: Callable[..., Any], make_images: Callable[..., Path]
) -> None:
    data = make_images(tmp_path / "data", {"a": 4, "b": 4})
    path = tmp_path / name
    path.write_bytes(PAYLOADS[name](tmp_path / "canary"))
    output = tmp_path / "run"
    done = cli("train", data, "--model", "test_resnet", "--weights", path, "--output", output, "--device", "cpu")
    assert done.code == 4
    assert f"error: {path}" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "canary").exists()

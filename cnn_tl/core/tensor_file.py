"""The bytes of a safetensors file, without a copy of the tensors.

safetensors' own functions hold Python's lock while they copy all tensors, a tenth of a second for a hundred megabytes.
A GPU would run dry meanwhile. These pieces are the same bytes (safetensors puts several keys of metadata in random
order), and a file takes each of them without the lock.

Source: the format's description in https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.core.errors import ArtefactError, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

_ORDER = ("BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64")
"""Types as the format names them, in the order in which safetensors compares them."""

_NAMES = {
    **{"bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "float16": "F16"},
    **{"bfloat16": "BF16", "int32": "I32", "uint32": "U32", "float32": "F32"},
    **{"float64": "F64", "int64": "I64", "uint64": "U64"},
}
"""A type's name in torch -> its name in the format; numpy uses the same names."""

_ALIGNMENT = 8
_LONGEST_HEADER = 100_000_000
"""In bytes, as in safetensors."""


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor of a file; only its header is read.

    Raises:
        ArtefactError: it is missing or damaged.
    """
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, _LONGEST_HEADER)))
        return {name: tuple(map(int, about["shape"])) for name, about in header.items() if name != "__metadata__"}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ArtefactError(f"{printable(path)} is damaged: {error}") from error


def tensor_pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """Return the pieces of a file with these tensors, which must not change until the pieces are written.

    Raises:
        KeyError: a tensor has a type that is not written here.
    """
    import torch

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    entries = {
        name: (_NAMES[str(tensor.dtype).removeprefix("torch.")], list(tensor.shape), tensor.nbytes)
        for name, tensor in contiguous.items()
    }
    header, order = _header(entries, metadata)
    return [header, *(contiguous[name].reshape(-1).view(torch.uint8).numpy().data for name in order)]


def array_pieces(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """Return the pieces of a file with these arrays, which must not change until the pieces are written.

    Raises:
        KeyError: an array has a type that is not written here.
    """
    import numpy as np

    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    entries = {
        name: (_NAMES[array.dtype.newbyteorder("=").name], list(array.shape), array.nbytes)
        for name, array in contiguous.items()
    }
    if any(not array.dtype.isnative for array in contiguous.values()):
        raise KeyError("bytes in the other order")
    header, order = _header(entries, metadata)
    return [header, *(contiguous[name].reshape(-1).view(np.uint8).data for name in order)]


def _header(
    entries: Mapping[str, tuple[str, list[int], int]], metadata: Mapping[str, str]
) -> tuple[bytes, Iterator[str]]:
    """Return the header, and the names of the tensors in the order of their bytes.

    Args:
        entries: name -> type, shape and number of bytes.
    """
    order = sorted(entries, key=lambda name: (-_ORDER.index(entries[name][0]), name.encode("utf-8", "surrogatepass")))
    described: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for name in order:
        kind, shape, nbytes = entries[name]
        described[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, start + nbytes]}
        start += nbytes
    text = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, iter(order)

"""The files are those that safetensors writes, to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import numpy as of_arrays
from safetensors import torch as of_tensors

from cnn_tl.core import files
from cnn_tl.core.tensor_file import array_pieces, tensor_pieces

TENSORS = {
    "weight": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "scalar": torch.tensor(7),
    "empty": torch.empty(0, 3),
    'odd "name"\n ü': torch.tensor([True, False]),
    "other": torch.zeros(3),
    **{
        str(kind): torch.arange(3).to(kind)
        for kind in (
            *(torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64),
            *(torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64),
        )
    },
}
METADATA = [{}, {"format": "pt"}, {"odd": 'ü "x"'}]


@pytest.mark.parametrize("metadata", METADATA)
def test_tensors(tmp_path: Path, metadata: dict[str, str]) -> None:
    expected = of_tensors.save({name: tensor.contiguous() for name, tensor in TENSORS.items()}, metadata)
    assert b"".join(tensor_pieces(TENSORS, metadata)) == expected
    files.write_tensors(tmp_path / "x.safetensors", TENSORS, metadata)
    assert (tmp_path / "x.safetensors").read_bytes() == expected
    read = files.read_tensors(tmp_path / "x.safetensors")
    assert all(torch.equal(read[name], tensor) for name, tensor in TENSORS.items())


@pytest.mark.parametrize("metadata", METADATA)
def test_arrays(tmp_path: Path, metadata: dict[str, str]) -> None:
    arrays = {name: tensor.numpy() for name, tensor in TENSORS.items() if tensor.dtype != torch.bfloat16}
    expected = of_arrays.save({name: np.asarray(array, order="C") for name, array in arrays.items()}, metadata)
    assert b"".join(array_pieces(arrays, metadata)) == expected
    files.write_arrays(tmp_path / "x.safetensors", arrays, metadata)
    assert (tmp_path / "x.safetensors").read_bytes() == expected


def test_a_file_without_tensors_can_be_read(tmp_path: Path) -> None:
    """That of safetensors 0.8 cannot."""
    files.write_tensors(tmp_path / "x.safetensors", {})
    assert files.read_tensors(tmp_path / "x.safetensors") == {}


@pytest.mark.parametrize("array", [np.zeros(2, ">f4"), np.zeros(2, "c8"), np.zeros(2, "datetime64[s]")])
def test_types_that_are_not_written(array: np.ndarray) -> None:
    with pytest.raises(KeyError):
        array_pieces({"x": array}, {})

"""Arrays in the memory of the host, or of a GPU: the few operations that differ between numpy and torch.

What both libraries spell alike (`@`, slices, `exp`, `where`, ...) is written once, through `xp`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.cpu import usable

SMALL = 2**21
"""Numbers to work through up to which a GPU takes longer than the host: it would run a few dozen short kernels."""

LARGE_MATRIX = 1_536
"""Rows of a symmetric matrix from which a GPU decomposes it sooner than the host, loading its library included."""

Item = TypeVar("Item")
Result = TypeVar("Result")

Array = Any
"""A numpy array, or a torch tensor on a device."""


class HostArrays:
    """numpy, and threads for what numpy computes without holding the interpreter.

    The threads of a BLAS library wait for each other by turning, which on a busy machine takes ten times as long; so
    they should be limited to one (threadpoolctl) while these work.
    """

    xp: Any = np
    single: Any = np.float32
    double: Any = np.float64
    shares_rows = True

    def __init__(self) -> None:
        """Start no thread yet."""
        self._threads: ThreadPoolExecutor | None = None

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return the results in order, computed by as many threads as cores may be used."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(usable(), thread_name_prefix="head")
        return list(self._threads.map(function, items))

    def eigh(self, symmetric: Array) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return eigenvalues, ascending, and eigenvectors, on the host."""
        values, vectors = np.linalg.eigh(symmetric)
        return values, vectors

    def close(self) -> None:
        """End the threads."""
        if self._threads is not None:
            self._threads.shutdown()

    def put(self, array: NDArray[Any]) -> Array:
        """Return an array of the host, where this computes."""
        return array

    def read(self, columns: Sequence[Array]) -> NDArray[np.float64]:
        """Return arrays [F] or [F, n] side by side, float64 [F, sum of n], on the host: one wait for the device."""
        return np.concatenate([np.atleast_2d(c.T).T for c in columns], axis=1, dtype=np.float64)

    def cast(self, array: Array, dtype: Any) -> Array:
        """Return the array in another precision; the same one if it has it already."""
        return array.astype(dtype, copy=False)

    def dots(self, one: Array, other: Array) -> Array:
        """Return the products of the rows of two arrays [F, n], [F]; no array of their size is made."""
        return np.vecdot(one, other)

    def zeros(self, shape: Sequence[int], dtype: Any) -> Array:
        """Return zeros."""
        return np.zeros(shape, dtype)

    def host(self, array: Array) -> NDArray[Any]:
        """Return the array on the host."""
        return np.asarray(array)


_SMALL = 2**20
"""Bytes of an array that is worth a copy to pinned memory before that to a GPU."""


class DeviceArrays:
    """torch on a device, where float32 products are exact from then on.

    Most decompositions stay on the host: loading the GPU's library for them takes longer.
    """

    shares_rows = False

    def __init__(self, device: str) -> None:
        """Take the name of a device, such as "cuda:0"."""
        import torch

        from cnn_tl.core.device import exact_fp32

        self.xp: Any = torch
        self.device = torch.device(device)
        if self.device.type == "cuda":
            exact_fp32()
        self.single: Any = torch.float32
        self.double: Any = torch.float64

    def put(self, array: NDArray[Any]) -> Array:
        """Return an array of the host, where this computes."""
        here = self.xp.from_numpy(np.ascontiguousarray(array))
        if self.device.type == "cuda" and array.nbytes < _SMALL:  # a copy of pinned memory is not waited for
            return here.pin_memory().to(self.device, non_blocking=True)
        return here.to(self.device)

    def read(self, columns: Sequence[Array]) -> NDArray[np.float64]:
        """Return arrays [F] or [F, n] side by side, float64 [F, sum of n], on the host: one wait for the device."""
        wide = [(c[:, None] if c.ndim == 1 else c).to(self.double) for c in columns]
        return self.xp.cat(wide, 1).cpu().numpy()  # type: ignore[no-any-return]

    def cast(self, array: Array, dtype: Any) -> Array:
        """Return the array in another precision; the same one if it has it already."""
        return array.to(dtype)

    def dots(self, one: Array, other: Array) -> Array:
        """Return the products of the rows of two arrays [F, n], [F]."""
        return self.xp.sum(one * other, 1)

    def zeros(self, shape: Sequence[int], dtype: Any) -> Array:
        """Return zeros."""
        return self.xp.zeros(tuple(shape), dtype=dtype, device=self.device)

    def host(self, array: Array) -> NDArray[Any]:
        """Return the array on the host."""
        return array.cpu().numpy()  # type: ignore[no-any-return]

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """Return the results in order."""
        return [function(item) for item in items]

    def eigh(self, symmetric: Array) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return eigenvalues, ascending, and eigenvectors, on the host."""
        if len(symmetric) < LARGE_MATRIX:
            values, vectors = np.linalg.eigh(self.host(symmetric))
            return values, vectors
        found = self.xp.linalg.eigh(symmetric)
        return self.host(found[0]), self.host(found[1])

    def close(self) -> None:
        """Free nothing: torch keeps its memory for later."""


Arrays = HostArrays | DeviceArrays


def compute(size: int, device: str, function: Callable[[Arrays], Result]) -> Result:
    """Call a function with the arrays of a CUDA device; of the host if that is faster, or the device lacks memory.

    Args:
        size: how many numbers the function works through.
    """
    if device.startswith("cuda") and size >= SMALL:
        from cnn_tl.core.device import is_out_of_memory

        try:
            return function(DeviceArrays(device))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
    with closing(HostArrays()) as host:
        return function(host)

"""Import torchvision and timm without torch.compile's machinery, which takes longer to load than all the rest.

Both name `torch._dynamo` while they are imported, neither needs it before something is compiled. So for that moment two
stand-ins answer: they do what the real ones do as long as nothing compiles, and hand over to them once something does.
Should a later version of either package want more of it than that, it is imported the plain way.
"""

from __future__ import annotations

import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from cnn_tl.core.errors import ResourceError

_DYNAMO = "torch._dynamo"
_LOCK = threading.Lock()


def import_timm() -> None:
    """Import torch, torchvision and timm.

    Raises:
        ImportError, RuntimeError, OSError: one is missing, or they were not built for each other.
        ResourceError: there is no working directory.
    """
    if "torch" not in sys.modules:
        require_working_directory()
    with _LOCK:
        importlib.import_module("torch")
        try:
            with _without_dynamo():
                importlib.import_module("torchvision")
                importlib.import_module("timm")
        except (ImportError, AttributeError):
            importlib.import_module("torchvision")
            importlib.import_module("timm")


def require_working_directory() -> None:
    """Refuse to start in a directory that was deleted meanwhile: torch's MKL would end the process in it.

    Raises:
        ResourceError: there is none.
    """
    try:
        os.getcwd()  # noqa: PTH109 - the question is whether there is one
    except OSError as error:
        raise ResourceError(
            f"the working directory no longer exists, or cannot be reached ({error.strerror}); change to one that does"
        ) from error


@contextmanager
def _without_dynamo() -> Iterator[None]:
    if _DYNAMO in sys.modules:
        yield
        return
    from unittest import mock  # loads asyncio, which prediction without torch has no use for

    package, utils = ModuleType(_DYNAMO), ModuleType(f"{_DYNAMO}.utils")
    package.__path__ = []
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    stand_ins = {_DYNAMO: package, f"{_DYNAMO}.utils": utils}
    sys.modules.update(stand_ins)
    try:
        with mock.patch("torch.compiler.disable", _disable):
            yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _is_compile_supported(device_type: Any) -> bool:
    """Answer as `torch._dynamo.utils.is_compile_supported` does, by asking it."""
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))


def _disable(fn: Callable[..., Any], recursive: bool = True, *, reason: str | None = None) -> Callable[..., Any]:
    """Stand in for `torch.compiler.disable`: as long as torch._dynamo is not loaded, nothing can be compiling."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if _DYNAMO not in sys.modules:
            return fn(*args, **kwargs)
        return _really_disabled(fn, recursive, reason)(*args, **kwargs)

    return wrapper


@functools.cache
def _really_disabled(fn: Callable[..., Any], recursive: bool, reason: str | None) -> Callable[..., Any]:
    import torch

    return torch.compiler.disable(fn, recursive, reason=reason)  # type: ignore[no-any-return, no-untyped-call]

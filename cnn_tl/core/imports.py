"""Importing torch, torchvision and timm quickly, and one line for a package that is missing.

Mode `freeze`, and models that have a graph, need none of them on a CPU. For the others, and on a GPU: torchvision and
timm name `torch._dynamo` (the machinery of torch.compile) while they are imported, but need it only once something is
compiled. It takes 1.6 of the 4.2 seconds that all of this keeps a core busy (torch itself 1.9). Two stand-ins answer
during the import. They behave like the originals while nothing compiles, and hand over to them once something does. If
a later version of either package needs more than the stand-ins offer, it is imported the ordinary way.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from cnn_tl.core.background import Background
from cnn_tl.core.errors import ResourceError
from cnn_tl.core.monkeypatch import attribute_replaced, modules_replaced

OLDEST_ONNXRUNTIME = "1.18"
"""The first onnxruntime that reads our exports: version 10 of the format, opset 20 or 21."""

_DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}
"""Packages whose name for `import` differs from their name for pip."""

_WITH_TORCH = ("torch", "torchvision", "timm")
_DYNAMO = "torch._dynamo"
_LOCK = threading.Lock()
_failed_in_background: list[BaseException] = []


def require_torch(purpose: str = "") -> None:
    """Import torch, torchvision and timm.

    Args:
        purpose: what needs them, such as "mode finetune"; empty: what the user has just asked for.

    Raises:
        ResourceError: one is missing, or broken, or torch and torchvision were not built for each other; or there is
            no working directory.
    """
    try:
        import_timm()
    except ResourceError:
        raise
    except Exception as error:  # a broken package may raise anything
        if isinstance(error, ImportError) and (line := missing_line(error, purpose)):
            raise ResourceError(line) from error
        versions = ", ".join(f"{name} {installed_version(name) or 'missing'}" for name in _WITH_TORCH)
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ResourceError(
            f"torch is needed {_for(purpose)} and cannot be used ({versions}): {reason}; "
            "install versions that match: pip install --upgrade torch torchvision timm"
        ) from error


def refuse_without_torch(purpose: str) -> None:
    """Refuse what needs torch, torchvision and timm where one of them is missing; import none of them.

    Raises:
        ResourceError: one is missing.
    """
    for name in _WITH_TORCH:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            absent = ModuleNotFoundError(f"No module named {name!r}", name=name)
            raise ResourceError(str(missing_line(absent, purpose)))


def import_timm() -> None:
    """Import torch, torchvision and timm.

    Raises:
        Exception: one is missing or broken, or they were not built for each other.
        ResourceError: there is no working directory.
    """
    if "torch" not in sys.modules:
        require_working_directory()
    with _LOCK:
        if _failed_in_background:  # to import half a package again would raise something less clear
            raise _failed_in_background.pop()
        _import_all()


def _import_all() -> None:
    importlib.import_module("torch")
    try:
        with _without_dynamo():
            importlib.import_module("torchvision")
            importlib.import_module("timm")
    except (ImportError, AttributeError):
        importlib.import_module("torchvision")
        importlib.import_module("timm")


def import_in_background(then: Callable[[], None]) -> None:
    """Begin to import torch, torchvision and timm in a thread; `require_torch` waits for it, and raises its error.

    Args:
        then: called in a thread of its own as soon as torch is there, while the others are being imported. Its errors
            are left to whoever needs the same.
    """

    def work() -> None:
        require_working_directory()
        with _LOCK:
            try:
                importlib.import_module("torch")
                Background(then, "after torch")
                _import_all()
            except BaseException as error:  # noqa: BLE001 - raised again by `import_timm` in the thread that needs it
                _failed_in_background.append(error)

    Background(work, "import torch")


def wait_for_import() -> None:
    """Wait for an import that is in progress in another thread: until its end, `torch._dynamo` is a stand-in."""
    with _LOCK:
        pass


def require_working_directory() -> None:
    """Refuse to start in a directory that has been deleted: torch's MKL would end the process.

    Raises:
        ResourceError: the working directory does not exist or cannot be reached.
    """
    try:
        os.getcwd()  # noqa: PTH109 - the question is whether there is one
    except OSError as error:
        raise ResourceError(
            f"the working directory no longer exists, or cannot be reached ({error.strerror}); change to one that does"
        ) from error


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution, without importing it; None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def missing_line(error: ImportError, purpose: str = "") -> str | None:
    """Return one line that names the missing package and the command that installs it; None for any other failure.

    Args:
        purpose: what needs it, such as "mode finetune".
    """
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or module in ("", "cnn_tl", *sys.stdlib_module_names):
        return None
    if module in sys.modules or importlib.util.find_spec(module) is not None:
        return None  # the package is installed but lacks this module: two versions that do not match
    name = _DISTRIBUTIONS.get(module, module.replace("_", "-"))
    missing = f"{name} is needed {_for(purpose)} and not installed: pip install"
    absent = _absent_dependencies()
    if name not in absent:
        return f"{missing} {name}"
    others = {1: "", 2: " and 1 more that is missing"}.get(len(absent), f" and {len(absent) - 1} more that are missing")
    return f"{missing} cnn-tl (adds it{others})"


def _for(purpose: str) -> str:
    return f"for {purpose}" if purpose else "here"


def _absent_dependencies() -> list[str]:
    """Return which of cnn-tl's dependencies are not installed; none where cnn-tl itself is not installed."""
    from importlib.metadata import PackageNotFoundError, distribution, requires

    try:
        wanted = requires("cnn-tl") or []
    except PackageNotFoundError:
        return []
    absent = []
    for requirement in wanted:
        if "extra ==" in requirement:
            continue
        name = re.match(r"[\w.-]+", requirement)
        assert name
        try:
            distribution(name[0])
        except PackageNotFoundError:
            absent.append(re.sub(r"[-_.]+", "-", name[0]).lower())
    return absent


@contextmanager
def _without_dynamo() -> Iterator[None]:
    """Let the stand-ins answer for `torch._dynamo` inside the block, unless it is loaded already."""
    if _DYNAMO in sys.modules:
        yield
        return
    import torch

    package, utils = ModuleType(_DYNAMO), ModuleType(f"{_DYNAMO}.utils")
    package.__path__ = []
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    with (
        modules_replaced({_DYNAMO: package, f"{_DYNAMO}.utils": utils}),
        attribute_replaced(torch.compiler, "disable", _disable),
    ):
        yield


def _is_compile_supported(device_type: Any) -> bool:
    """Ask the real `torch._dynamo.utils.is_compile_supported`."""
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))


def _disable(fn: Callable[..., Any], recursive: bool = True, *, reason: str | None = None) -> Callable[..., Any]:
    """Stand in for `torch.compiler.disable`: nothing can be compiling before torch._dynamo is loaded."""

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

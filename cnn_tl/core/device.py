"""Where torch computes and how: the device, the precision, exact float32, deterministic kernels."""

from __future__ import annotations

import os
import platform
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cnn_tl.core.errors import ResourceError
from cnn_tl.core.imports import import_in_background, installed_version, require_torch, wait_for_import

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16"]

_PREFERRED: tuple[DeviceName, ...] = ("cuda", "mps", "cpu")
_CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
WantedPrecision = Literal["auto", "fp32", "bf16"]

_OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "not enough memory", "could not create a primitive",
    "_status_alloc_failed",
)  # fmt: skip
"""Of torch's messages, in lower case; the last two are of oneDNN, and of cuBLAS and cuDNN."""


def pick_device(wanted: DeviceName = "auto") -> torch.device:
    """Return the device to compute on; `auto` prefers CUDA, then MPS, then the CPU.

    Raises:
        ResourceError: the requested device is not available.
    """
    wait_for_import()
    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        wanted = next(name for name in _PREFERRED if present[name])
    if not present[wanted]:
        here = ", ".join(name for name, there in present.items() if there)
        raise ResourceError(
            f"device {wanted} is not available here (torch {torch.__version__} sees: {here}); use --device auto"
        )
    if wanted == "cuda":
        _allow_deterministic_cublas()
    return torch.device(wanted)


def _allow_deterministic_cublas() -> None:
    """Let cuBLAS use a workspace of a fixed size, without which `run.deterministic` is refused later in this process.

    torch reads the variable once, at the first matrix product. On an H100 this is the size that torch uses anyway.
    """
    os.environ.setdefault(_CUBLAS_WORKSPACE, ":4096:8")


def will_be_cuda(wanted: DeviceName) -> bool | None:
    """Return, without torch, whether `pick_device` will choose CUDA, most likely; None: there is no telling."""
    if wanted != "auto":
        return wanted == "cuda"
    if nvidia_devices():
        return True
    elsewhere = any(Path(name).exists() for name in ("/dev/dxg", "/dev/kfd"))  # WSL, ROCm
    return False if sys.platform == "linux" and not elsewhere else None


def may_be_gpu(wanted: DeviceName) -> bool:
    """Return, without torch, whether torch may compute on a GPU here; if not, `pick_device` chooses the CPU."""
    if wanted != "auto":
        return wanted != "cpu"
    if sys.platform == "darwin":
        has_gpu = platform.machine() == "arm64"  # MPS
    elif sys.platform == "win32":
        has_gpu = Path(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32", "nvcuda.dll").exists()
    else:
        has_gpu = will_be_cuda(wanted) is not False
    return has_gpu and installed_version("torch") is not None


def current_gpu() -> int | None:
    """Return the index of the GPU that this thread uses; None before CUDA is used."""
    torch = sys.modules.get("torch")
    in_use = torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized()
    return torch.cuda.current_device() if torch is not None and in_use else None


def unused_gpu(wanted: DeviceName) -> str | None:
    """Return a note where there is a GPU that `auto` would choose, but no torch to use it."""
    if wanted == "auto" and nvidia_devices() and installed_version("torch") is None:
        return "this machine has a GPU, but torch, which would use it, is not installed: pip install cnn-tl"
    return None


def nvidia_devices() -> list[str]:
    """Return the device files of NVIDIA's GPUs on Linux; none if CUDA is told to see none."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return []
    return sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))


def begin_loading(device: DeviceName, *, opens_gpu: bool = True, then: Callable[[], None] | None = None) -> None:
    """Begin to import torch and timm in a thread, and to open the GPU, while the caller does what needs neither.

    Args:
        device: where the network will run.
        opens_gpu: False: only import. Each process of several on a machine must choose its GPU first.
        then: called in the thread at the end, whatever it may raise.
    """

    def go_on() -> None:
        if opens_gpu and device in ("auto", "cuda"):
            _open_gpu()
        if then is not None:
            then()

    import_in_background(go_on)


def _open_gpu() -> None:
    """Let CUDA, cuBLAS and cuDNN load what they need for any network: about a second."""
    import torch

    if not torch.cuda.is_available():
        return
    _allow_deterministic_cublas()
    with torch.inference_mode():
        x_NCHW = torch.zeros(1, 8, 8, 8, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        filters = torch.zeros(8, 8, 3, 3, device="cuda", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
        torch.nn.functional.conv2d(x_NCHW, filters)
        square = torch.zeros(8, 8, device="cuda")
        torch.mm(square, square)


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bf16 in hardware; elsewhere bf16 is emulated and slow."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("arm_bf16"))
    return False


def inference_precision(device: torch.device, wanted: WantedPrecision) -> Precision:
    """Return the precision in which a network runs without gradients, by rule: nothing is measured.

    On CUDA that is bf16 where the hardware multiplies it, unless fp32 is wanted; anywhere else float32. A classifier
    always computes in float32, see `networks.backbone.classifier_in_fp32`.
    """
    return "bf16" if device.type == "cuda" and wanted != "fp32" and has_fast_bf16(device) else "fp32"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether CUDA, MPS or the CPU has run out of memory."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY)


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Run the block in `precision`: bf16 with torch's autocast, fp32 unchanged."""
    import torch

    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Run the block with deterministic kernels if `wanted`; if not, do nothing and do not load torch.

    Enter it before the network runs for the first time.

    Raises:
        ResourceError: an operation in the block has no deterministic kernel; or torch cannot be used.
    """
    if not wanted:
        yield
        return
    require_torch("run.deterministic")
    import torch

    is_own = _CUBLAS_WORKSPACE not in os.environ
    _allow_deterministic_cublas()
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).split(",")[0].split(".")[0]
        raise ResourceError(f"run.deterministic: {reason}; set run.deterministic: false") from error
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]
        if is_own:
            os.environ.pop(_CUBLAS_WORKSPACE, None)


def seed_generators(device: torch.device, seed: int) -> None:
    """Seed the random generators of the CPU and the device; `torch.manual_seed` visits those of all back ends."""
    import torch

    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def waiting_forbidden() -> Iterator[None]:
    """Raise a RuntimeError where any thread waits for CUDA during the block, as far as torch notices."""
    import torch

    before = torch.cuda.get_sync_debug_mode()
    _set_sync_debug_mode("error")
    try:
        yield
    finally:
        _set_sync_debug_mode(before)


def _set_sync_debug_mode(mode: int | str) -> None:
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode(mode)


def exact_fp32() -> None:
    """Compute float32 exactly on CUDA: by default its convolutions round to TF32, with a mantissa of 10 bits.

    The setting is process-wide. Inside `fp32_switches_restored` it lasts until the end of that block.
    """
    with _SAVED.lock:
        if _SAVED.users and _SAVED.states is None:
            _SAVED.states = tuple(_state(switch, name) for switch, name in _switches())
        for switch, name in _switches():
            setattr(switch, name, False if name == "allow_tf32" else "ieee")


@contextmanager
def fp32_switches_restored() -> Iterator[None]:
    """Undo `exact_fp32` after the block: code that calls this library has settings of its own.

    Blocks may overlap in several threads; the last one to end restores.
    """
    with _SAVED.lock:
        _SAVED.users += 1
    try:
        yield
    finally:
        with _SAVED.lock:
            _SAVED.users -= 1
            if not _SAVED.users and _SAVED.states is not None:
                for (switch, name), state in zip(_switches(), _SAVED.states, strict=True):
                    if state is not None:
                        setattr(switch, name, state)
                _SAVED.states = None


class _SavedSwitches:
    """The states of `_switches` before any of the `users` open blocks changed them; None: none has."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.users = 0
        self.states: tuple[Any, ...] | None = None


_SAVED = _SavedSwitches()


def _switches() -> tuple[tuple[Any, str], ...]:
    """Return torch's switches for float32 on CUDA as (owner, attribute), the older ones first: they set the newer too.

    torch keeps both, and `torch.export` refuses to run where they disagree.
    """
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    newer: tuple[Any, ...] = cudnn.conv, cudnn.rnn, matmul  # type: ignore[attr-defined]
    return (cudnn, "allow_tf32"), (matmul, "allow_tf32"), *((switch, "fp32_precision") for switch in newer)


def _state(switch: Any, name: str) -> Any:
    """Return the state of a switch; None if the caller has set both the older and the newer one, and they disagree."""
    try:
        return getattr(switch, name)
    except RuntimeError:
        return None

"""The machine and the moment: device, number format, random numbers as functions, and requests to stop."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

from cnn_tl.core import cpu, signals
from cnn_tl.core.errors import ResourceError, Stopped
from cnn_tl.core.imports import import_timm
from cnn_tl.core.packages import missing_line

if TYPE_CHECKING:
    import torch

DeviceName = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16"]


def require_torch() -> None:
    """Import torch, torchvision and timm, or say in one line why that cannot be.

    Raises:
        ResourceError: one is missing, or torch and torchvision were not built for each other.
    """
    try:
        import_timm()
    except (ImportError, RuntimeError, OSError) as error:
        if isinstance(error, ImportError) and (line := missing_line(error)):
            raise ResourceError(line) from error
        from importlib.metadata import PackageNotFoundError, version

        def found(name: str) -> str:
            try:
                return f"{name} {version(name)}"
            except PackageNotFoundError:
                return f"{name} missing"

        pair = ", ".join(found(name) for name in ("torch", "torchvision", "timm"))
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ResourceError(
            f"torch cannot be used here ({pair}): {reason}; "
            "install a pair that belongs together: pip install --upgrade torch torchvision timm"
        ) from error


def pick_device(wanted: DeviceName = "auto") -> torch.device:
    """Return the device to work on; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        ResourceError: the device that was asked for is not there.
    """
    import torch

    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if present[name]))
    if not present[wanted]:
        here = ", ".join(name for name, there in present.items() if there)
        raise ResourceError(
            f"device {wanted} is not available here (torch {torch.__version__} sees: {here}); use --device auto"
        )
    return torch.device(wanted)


def exact_fp32() -> None:
    """Let float32 mean float32 on CUDA too: by default its convolutions round to TF32, which has 10 bits.

    It is a setting of the whole process. Inside `switches_restored` it ends with that body.
    """
    with _SWITCHES:
        if _SWITCHES.users and _SWITCHES.before is None:
            _SWITCHES.before = tuple(_state(switch, name) for switch, name in _switches())
        for switch, name in _switches():
            setattr(switch, name, False if name == "allow_tf32" else "ieee")


def _switches() -> tuple[tuple[Any, str], ...]:
    """Return what says how CUDA computes in float32, the older names first, which set the newer ones too.

    torch keeps both, and `torch.export` refuses to run where they disagree.
    """
    import torch

    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    newer: tuple[Any, ...] = cudnn.conv, cudnn.rnn, matmul  # type: ignore[attr-defined]
    return (cudnn, "allow_tf32"), (matmul, "allow_tf32"), *((switch, "fp32_precision") for switch in newer)


def _state(switch: Any, name: str) -> Any:
    """Return the state of a switch; None where the caller has set it in both ways, and they disagree."""
    try:
        return getattr(switch, name)
    except RuntimeError:
        return None


class _Switches:
    """What torch was set to before the first of `users` bodies changed it; None: none has."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.users = 0
        self.before: tuple[Any, ...] | None = None

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_SWITCHES = _Switches()


@contextmanager
def switches_restored() -> Iterator[None]:
    """Undo `exact_fp32` after the body: a library's caller has settings of its own.

    Bodies may overlap in several threads; the last one to end restores.
    """
    with _SWITCHES:
        _SWITCHES.users += 1
    try:
        yield
    finally:
        with _SWITCHES:
            _SWITCHES.users -= 1
            if not _SWITCHES.users and _SWITCHES.before is not None:
                for (switch, name), state in zip(_switches(), _SWITCHES.before, strict=True):
                    if state is not None:
                        setattr(switch, name, state)
                _SWITCHES.before = None


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Run the body with kernels that give the same bits each time, where `wanted`; without torch where not.

    It must be entered before the network runs at all.

    Raises:
        ResourceError: there is none for something that the body does; or torch cannot be used.
    """
    if not wanted:
        yield
        return
    require_torch()
    import torch

    variable = "CUBLAS_WORKSPACE_CONFIG"  # read once, at the first product of matrices
    is_own = variable not in os.environ
    os.environ.setdefault(variable, ":4096:8")
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
            os.environ.pop(variable, None)


def has_fast_bf16(device: torch.device) -> bool:
    """Say whether the device multiplies bf16 in hardware; elsewhere bf16 is emulated and slow."""
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        flags = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(flags.get("avx512_bf16") or flags.get("amx_bf16") or flags.get("arm_bf16"))
    return False


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Run the body in `precision`: bf16 through torch's autocast, fp32 as it is."""
    import torch

    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


def seed_of(*parts: int | str) -> int:
    """Return a 63-bit seed that is a function of its parts, such as (seed, "shuffle", epoch).

    No state of a generator is ever saved: whoever needs randomness asks for it by name, so a resumed run draws the same
    numbers as an undisturbed one, with any number of workers.
    """
    text = "\0".join(str(part) for part in parts)
    encoded = text.encode(errors="surrogatepass")  # a file's name need not be text; Python holds it in surrogates
    return int.from_bytes(hashlib.sha256(encoded).digest()[:8], "big") >> 1


def default_workers() -> int:
    """Return how many threads read images when nothing else is asked for: one for each core that we may use."""
    return min(cpu.usable(), 64)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed instead of giving it back to the system; elsewhere nothing happens.

    Each step of a network frees and takes the same tens of megabytes. By default glibc maps and unmaps every such
    block, and the kernel clears its pages anew each time: a third of the time of training on a CPU. It is a setting
    of the whole process, so it is for programs to make, not for a library.
    """
    import ctypes
    import platform

    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_max, 0)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 64 * 2**20)


def release_freed_memory() -> None:
    """Give the system back what `keep_freed_memory` has kept so far: between stages of work that need other sizes."""
    import ctypes
    import platform

    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def wait_passively() -> None:
    """Let OpenMP's threads sleep while they wait for each other, unless the user has said how they should.

    By default they spin. That is a little quicker on an idle machine; but whenever something else wants a core (our
    own readers of images do), the spinning threads keep it from the one that they are waiting for: measured beside
    two other busy processes, embedding ran 2.4 to 5 times faster asleep. It must be said before torch is loaded, and
    is for programs to say, not for a library.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class StopRequest:
    """Remembers that SIGINT or SIGTERM came, so that the work can end at a good moment."""

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def raise_if_asked(self, what_now: str) -> None:
        """Raise `Stopped` with the line that tells how to go on, if a signal has come."""
        if self.signal_number is not None:
            raise Stopped(what_now, self.signal_number)


@contextmanager
def stop_on_signals(*, insisting: bool = True) -> Iterator[StopRequest]:
    """Catch the first SIGINT or SIGTERM in a `StopRequest`; the second one ends the process at once.

    Where the process is not ours, the second one does what it would have done without us: in a notebook or a prompt
    it raises `KeyboardInterrupt`, and the session with all its variables lives on. Outside the main thread (a server,
    a notebook's worker) signals are left alone.

    Args:
        insisting: False: the second one does nothing. A launcher passes on what the terminal has sent already.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if request and insisting:
            callers = before[signal.Signals(number)]
            if callable(callers) and not signals.is_ours(callers):
                callers(number, frame)
                return
            os._exit(128 + number)
        request.signal_number = number

    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in found.items() if handler is not None}  # else it is not Python's
    for number in before:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

from __future__ import annotations

import pytest
import torch

from cnn_tl.core import device
from cnn_tl.core.errors import ResourceError


def test_a_missing_device_is_refused_and_auto_is_not() -> None:
    with pytest.raises(ResourceError, match=r"device cuda is not available here .* use --device auto"):
        device.pick_device("cuda")
    assert device.pick_device("auto").type in ("cpu", "mps")


def test_float32_is_exact_inside_and_as_the_caller_had_it_afterwards() -> None:
    switches = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "tf32"
        with device.fp32_switches_restored():
            device.exact_fp32()
            with device.fp32_switches_restored():
                device.exact_fp32()
            assert [switch.fp32_precision for switch in switches] == ["ieee"] * 2, "the outer body goes on"
        assert [switch.fp32_precision for switch in switches] == ["tf32"] * 2
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def test_torch_can_export_where_float32_is_exact() -> None:
    """It reads the older names of these switches, and refuses where they and the newer ones disagree."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with device.fp32_switches_restored():
        device.exact_fp32()
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)
        torch.export.export(torch.nn.Conv2d(3, 2, 3), (torch.zeros(1, 3, 8, 8),))
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def test_deterministic_says_what_has_no_such_kernel_and_leaves_the_setting_as_it_was() -> None:
    def fail(message: str) -> None:
        with device.deterministic(True):
            assert torch.are_deterministic_algorithms_enabled()
            raise RuntimeError(message)

    with pytest.raises(ResourceError, match="put_ does not have a deterministic implementation; set"):
        fail("put_ does not have a deterministic implementation, but you set 'torch.use_deterministic_algorithms'")
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError, match="another"):
        fail("another")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (MemoryError(), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_a_lack_of_memory(error: Exception, expected: bool) -> None:
    assert device.is_out_of_memory(error) == expected


@pytest.mark.parametrize(
    ("wanted", "nvidia", "system", "expected"),
    [
        ("cpu", True, "linux", False), ("cuda", False, "linux", True), ("mps", True, "linux", False),
        ("auto", True, "linux", True), ("auto", False, "linux", False), ("auto", False, "win32", None),
    ],
)  # fmt: skip
def test_the_device_can_mostly_be_told_without_torch(
    monkeypatch: pytest.MonkeyPatch, wanted: device.DeviceName, nvidia: bool, system: str, expected: bool | None
) -> None:
    monkeypatch.setattr(device, "nvidia_devices", lambda: ["/dev/nvidia0"] if nvidia else [])
    monkeypatch.setattr(device.sys, "platform", system)
    monkeypatch.setattr(device.Path, "exists", lambda _: False)
    assert device.will_be_cuda(wanted) is expected


def test_no_gpu_is_in_use_here() -> None:
    assert device.current_gpu() is None


@pytest.mark.parametrize(
    ("wanted", "gpus", "torch", "is_noted"),
    [
        ("auto", ["/dev/nvidia0"], None, True),
        ("auto", ["/dev/nvidia0"], "2.10", False),
        ("auto", [], None, False),
        ("cpu", ["/dev/nvidia0"], None, False),
    ],
)
def test_a_gpu_that_only_torch_could_use(
    monkeypatch: pytest.MonkeyPatch, wanted: device.DeviceName, gpus: list[str], torch: str | None, is_noted: bool
) -> None:
    monkeypatch.setattr(device, "nvidia_devices", lambda: gpus)
    monkeypatch.setattr(device, "installed_version", lambda name: torch)
    note = device.unused_gpu(wanted)
    assert (note is not None) == is_noted
    assert not device.may_be_gpu(wanted) or torch
    assert note is None or note.endswith("not installed: pip install cnn-tl")


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_gpus_that_are_hidden_from_cuda_are_not_there(monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setattr(device.Path, "glob", lambda self, pattern: iter([self / "nvidia0"]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert device.nvidia_devices() == ["/dev/nvidia0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert device.nvidia_devices() == []

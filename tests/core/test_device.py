from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
import torch

from cnn_tl.core import device
from cnn_tl.core.errors import ResourceError, Stopped


def test_seeds_are_functions_of_every_part() -> None:
    parts = [(0, "view", 1), (0, "view", 2), (1, "view", 1), (0, "step", 1), (0, "view1", ""), (0, "view", "1", "")]
    seeds = [device.seed_of(*p) for p in parts]
    assert len(set(seeds)) == len(parts)
    assert seeds == [device.seed_of(*p) for p in parts]
    assert all(0 <= s < 2**63 for s in seeds)


def test_a_name_that_is_no_text_has_a_seed_too_and_those_of_texts_stay_what_they_were() -> None:
    assert device.seed_of(0, "view", 1, "ash/\udcff0.png") != device.seed_of(0, "view", 1, "ash/\udcfe0.png")
    assert device.seed_of(0, "view", 1, "Bäume/日本.png") == 72543800018600893


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_missing_device_is_refused_and_auto_is_not() -> None:
    with pytest.raises(ResourceError, match=r"device cuda is not available here .* use --device auto"):
        device.pick_device("cuda")
    assert device.pick_device("auto").type in ("cpu", "mps")


def test_a_signal_is_remembered_and_the_old_handler_returns() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with device.stop_on_signals() as request:
        assert not request
        request.raise_if_asked("nothing yet")
        os.kill(os.getpid(), signal.SIGTERM)
        assert request
        with pytest.raises(Stopped, match="go on with this") as stopped:
            request.raise_if_asked("go on with this")
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_second_signal_ends_the_process() -> None:
    code = (
        "import os, signal, time\nfrom cnn_tl.core import signals\nfrom cnn_tl.core.device import stop_on_signals\n"
        "signals.raise_on_signals()\n"
        "with stop_on_signals():\n    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(30)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 130


def test_in_a_notebook_the_second_signal_interrupts_and_the_session_lives_on() -> None:
    """Pressing stop twice must not cost all the variables of a session."""
    before = signal.getsignal(signal.SIGINT)
    with device.stop_on_signals() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before == signal.default_int_handler


def test_float32_is_exact_inside_and_as_the_caller_had_it_afterwards() -> None:
    switches = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "tf32"
        with device.switches_restored():
            device.exact_fp32()
            with device.switches_restored():
                device.exact_fp32()
            assert [switch.fp32_precision for switch in switches] == ["ieee"] * 2, "the outer body goes on"
        assert [switch.fp32_precision for switch in switches] == ["tf32"] * 2
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision


def test_torch_can_export_where_float32_is_exact() -> None:
    """It reads the older names of these switches, and refuses where they and the newer ones disagree."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    with device.switches_restored():
        device.exact_fp32()
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)
        torch.export.export(torch.nn.Conv2d(3, 2, 3), (torch.zeros(1, 3, 8, 8),))
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def test_torch_and_torchvision_that_do_not_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuse:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist")

    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    with pytest.raises(ResourceError, match=r"torch \d.*torchvision \d.*nms does not exist"):
        device.require_torch()


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

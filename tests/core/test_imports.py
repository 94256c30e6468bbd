"""torch.compile's machinery stays out until something compiles, and then is the real one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cnn_tl.core import imports

LOADED = "import sys; from cnn_tl.core.imports import import_timm; import_timm(); import timm, torch, torchvision\n"


def run(code: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", LOADED + code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_timm_is_loaded_without_it() -> None:
    code = (
        "timm.create_model('test_resnet').eval()(torch.zeros(1, 3, 64, 64))\n"
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'sympy') if name in sys.modules])"
    )
    assert run(code) == "[]"


def test_what_stood_in_is_gone_and_compiling_works() -> None:
    code = (
        "before = torch.compiler.disable\n"
        "model = torch.compile(timm.create_model('test_resnet').eval(), backend='eager')\n"
        "print(tuple(model(torch.zeros(1, 3, 64, 64)).shape), 'torch._dynamo.eval_frame' in sys.modules)\n"
        "print(before.__module__, sys.modules['torchvision.ops.roi_align'].is_compile_supported('cpu'))"
    )
    assert run(code).splitlines() == ["(1, 1000) True", "torch.compiler True"]


def test_a_disabled_function_of_timm_is_really_disabled_once_something_compiles() -> None:
    code = (
        "from cnn_tl.core import imports\n"
        "seen = []\n"
        "def note(x):\n    seen.append(torch.compiler.is_compiling())\n    return x + 1\n"
        "disabled = imports._disable(note)\n"
        "print(disabled(torch.ones(1)).item())\n"
        "import torch._dynamo\n"
        "compiled = torch.compile(lambda x: disabled(x) * 2, backend='eager')\n"
        "print(compiled(torch.ones(1)).item(), seen)"
    )
    assert run(code).splitlines() == ["2.0", "4.0 [False, False]"]


def test_a_version_that_wants_more_is_imported_the_plain_way(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    @contextmanager
    def too_little() -> Iterator[None]:
        asked.append(True)
        raise ImportError("cannot import name 'more' from 'torch._dynamo.utils'")
        yield

    monkeypatch.setattr(imports, "_without_dynamo", too_little)
    imports.import_timm()
    assert asked
    assert "timm" in sys.modules

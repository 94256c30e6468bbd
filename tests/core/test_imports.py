"""torch.compile's machinery is loaded only once something compiles; a missing package gets one line."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from cnn_tl.core import imports
from cnn_tl.core.errors import ResourceError
from cnn_tl.core.imports import missing_line

TIMM_THEN_COMPILING = """
import sys
from cnn_tl.core import imports
imports.import_timm()
import timm, torch, torchvision

before, seen = torch.compiler.disable, []
model = timm.create_model("test_resnet").eval()
model(torch.zeros(1, 3, 64, 64))

def note(x):
    seen.append(torch.compiler.is_compiling())
    return x + 1

disabled = imports._disable(note)
print(disabled(torch.ones(1)).item())
print([name for name in ("torch._dynamo", "torch._inductor", "sympy") if name in sys.modules])

compiled = torch.compile(model, backend="eager")
print(tuple(compiled(torch.zeros(1, 3, 64, 64)).shape), "torch._dynamo.eval_frame" in sys.modules)
print(before.__module__, sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu"))
compiled = torch.compile(lambda x: disabled(x) * 2, backend="eager")
print(compiled(torch.ones(1)).item(), seen)
"""


@pytest.fixture(scope="module")
def told() -> list[str]:
    """Return what a process says that loads timm, and then compiles."""
    command = [sys.executable, "-W", "ignore", "-c", TIMM_THEN_COMPILING]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_timm_is_loaded_without_it(told: list[str]) -> None:
    assert told[1] == "[]"


def test_what_stood_in_is_gone_and_compiling_works(told: list[str]) -> None:
    assert told[2:4] == ["(1, 1000) True", "torch.compiler True"]


def test_a_disabled_function_of_timm_is_really_disabled_once_something_compiles(told: list[str]) -> None:
    assert [told[0], *told[4:]] == ["2.0", "4.0 [False, False]"]


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


def test_torch_and_torchvision_that_do_not_belong_together(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuse:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "torchvision":
                raise RuntimeError("operator torchvision::nms does not exist")

    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Refuse(), *sys.meta_path])
    with pytest.raises(ResourceError, match=r"torch \d.*torchvision \d.*nms does not exist"):
        imports.require_torch()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("raise OSError('libtorch_cpu.so: cannot open shared object file')", "libtorch_cpu.so"),
        ("from torch._C import nothing", "No module named 'torch._C'"),
        ("1 / 0", "division by zero"),
    ],
)
def test_a_broken_torch_is_named_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(text)
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from cnn_tl.core import imports\n"
        "try:\n    imports.require_torch('mode finetune')\n"
        "except imports.ResourceError as error:\n    print(error)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.startswith("torch is needed for mode finetune and cannot be used (torch ")
    assert said in found
    assert found.count("\n") == 1


def test_a_missing_torch_is_found_missing_without_importing_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "_WITH_TORCH", ("json", "no_such_package"))
    with pytest.raises(ResourceError, match=r"^no-such-package is needed for mode finetune and not installed: pip in"):
        imports.refuse_without_torch("mode finetune")


def absent(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize(
    "error",
    [
        absent("cnn_tl.no_such"),
        absent("tomllib.no_such"),
        absent("numpy.no_such"),
        ImportError("cannot import name 'x'", name="absent"),
        ModuleNotFoundError("no name"),
    ],
    ids=str,
)
def test_what_is_no_missing_package(error: ImportError) -> None:
    assert missing_line(error) is None


def test_a_package_that_is_not_ours_is_added_by_its_name() -> None:
    assert missing_line(absent("no_such.part")) == "no-such is needed here and not installed: pip install no-such"


@pytest.mark.parametrize(
    ("there", "line"),
    [
        (("torch", "timm"), "pyyaml is needed here and not installed: pip install cnn-tl (adds it)"),
        (("timm",), "pyyaml is needed here and not installed: pip install cnn-tl (adds it and 1 more that is missing)"),
    ],
)
def test_one_of_ours_is_added_with_the_rest(monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], line: str) -> None:
    def distribution(name: str) -> None:
        if name not in there:
            raise PackageNotFoundError(name)

    wanted = ["PyYAML>=6.0", "torch>=2.10", "timm", "pyarrow>=20; extra == 'parquet'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda name: wanted)
    monkeypatch.setattr("importlib.metadata.distribution", distribution)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(imports.sys, "modules", {})
    assert missing_line(absent("yaml")) == line

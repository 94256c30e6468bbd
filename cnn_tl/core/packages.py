"""The packages that this one needs, and one line where one of them is missing: the light install has only a few."""

from __future__ import annotations

import importlib.util
import re
import sys

OLDEST_ONNXRUNTIME = "1.18"
"""The first onnxruntime that reads what we export: version 10 of the format and opset 20 or 21."""

_DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "sklearn": "scikit-learn"}
"""Those whose name for `import` is another one than that for pip."""


def missing_line(error: ImportError) -> str | None:
    """Say in one line what is not installed and which command adds it; None if that is not what is wrong."""
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or module in ("", "cnn_tl", *sys.stdlib_module_names):
        return None
    if module in sys.modules or importlib.util.find_spec(module) is not None:
        return None  # the package is there, but not that part of it: two versions that do not fit
    name = _DISTRIBUTIONS.get(module, module.replace("_", "-"))
    absent = _absent()
    if name not in absent:
        return f"{name} is needed here and not installed: pip install {name}"
    others = {1: "", 2: " and 1 more that is missing"}.get(len(absent), f" and {len(absent) - 1} more that are missing")
    return f"{name} is needed here and not installed: pip install cnn-tl (adds it{others})"


def _absent() -> list[str]:
    """Return which of our own dependencies are not installed; none where we are not installed ourselves."""
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

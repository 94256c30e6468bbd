"""Nothing calls home: packages that report to their makers are told not to, before they are imported.

This is the one place that imports onnxruntime and OpenVINO; a test holds that. `import cnn_tl` runs
`forbid_telemetry`, so that a package which another one imports, or a child process, is told as well.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NO_TELEMETRY = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime >= 1.32: a device id in the home folder, connections to Microsoft
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub: which torch this is, in the headers of a download
    "MLFLOW_DISABLE_TELEMETRY": "true",  # mlflow: an installation id in the home folder, connections
    "WANDB_ERROR_REPORTING": "false",  # wandb: its crashes go to Sentry, those of an offline run too
}
"""Variable -> the value that keeps a package from reporting to its maker. Most are read once, at import."""


def forbid_telemetry() -> None:
    """Set the variables of `NO_TELEMETRY` for this process and its children.

    A value that the user has set stays: `ORT_DISABLE_TELEMETRY=0` is a choice. An empty one is none.
    """
    for name, value in NO_TELEMETRY.items():
        if not os.environ.get(name):
            os.environ[name] = value


def onnxruntime(module: str = "") -> Any:
    """Import onnxruntime, or a module of it such as `quantization`, without its telemetry.

    Raises:
        ImportError: it is not installed, or has no such module.
    """
    forbid_telemetry()
    return importlib.import_module(f"onnxruntime.{module}" if module else "onnxruntime")


def openvino() -> Any:
    """Import OpenVINO without its telemetry: its import creates a client id and reports itself to Google Analytics.

    There is no variable against that, but without the package `openvino_telemetry` it uses a stub of its own. So that
    package is hidden during the import.

    Raises:
        ImportError: it is not installed.
    """
    with _hidden("openvino_telemetry"):
        return importlib.import_module("openvino")


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Let an import of this package fail inside the body, as if it were not installed."""
    missing = object()
    before = sys.modules.get(name, missing)
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not missing:
            sys.modules[name] = before  # type: ignore[assignment]

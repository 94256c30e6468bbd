"""Turn off the telemetry of other packages before they are imported.

Only this module imports onnxruntime and OpenVINO (a test enforces it). `import cnn_tl` calls `forbid_telemetry`, which
also covers packages that other packages import, and child processes.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from cnn_tl.core.monkeypatch import modules_replaced

NO_TELEMETRY = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime >= 1.32: a device id in the home folder, connections to Microsoft
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub: which torch this is, in the headers of a download
    "MLFLOW_DISABLE_TELEMETRY": "true",  # mlflow: an installation id in the home folder, connections
    "WANDB_ERROR_REPORTING": "false",  # wandb: its crashes go to Sentry, those of an offline run too
}
"""Environment variable -> the value that turns a package's telemetry off. Most are read once, at import."""


def forbid_telemetry() -> None:
    """Set the variables of `NO_TELEMETRY` for this process and its children.

    A value that the user has set is kept, such as `ORT_DISABLE_TELEMETRY=0`; an empty one counts as unset.
    """
    for name, value in NO_TELEMETRY.items():
        if not os.environ.get(name):
            os.environ[name] = value


def onnxruntime(module: str = "") -> Any:
    """Import onnxruntime, or one of its modules such as `quantization`, without its telemetry.

    Raises:
        ImportError: it is not installed, or has no such module.
    """
    forbid_telemetry()
    return importlib.import_module(f"onnxruntime.{module}" if module else "onnxruntime")


def openvino() -> Any:
    """Import OpenVINO without its telemetry: its import creates a client id and reports itself to Google Analytics.

    No variable turns that off, but without the package `openvino_telemetry` OpenVINO uses a stub of its own. So the
    package is hidden during the import.

    Raises:
        ImportError: it is not installed.
    """
    with modules_replaced({"openvino_telemetry": None}):
        return importlib.import_module("openvino")

"""The names that a user can choose from, one list for each table of functions that can grow.

A table (`HEADS`, `FREEZE`, `EXPORTERS`, ...) stands beside its functions and imports what they need. The command line
and the recipe need only the names, before anything heavy is loaded. A test compares each list with its table.
"""

from __future__ import annotations

from typing import Literal

Mode = Literal["freeze", "finetune", "lp-ft", "auto", "scratch"]
"""`MODES` in `training/run.py`."""

HeadKind = Literal["auto", "lbfgs+ridge", "lbfgs", "ridge", "adamw", "knn", "prototype"]
"""`HEADS` in `heads/__init__.py`."""

FreezePolicy = Literal["head", "last-stage", "norm", "all"]
"""`FREEZE` in `networks/freeze_policies.py`, which also takes `last-N` and lists of names."""

ExportFormat = Literal["onnx", "openvino", "timm", "torch"]
"""`EXPORTERS` in `exporting/export.py`."""

ExplainMethod = Literal[
    "gradcam", "xgradcam", "layercam", "occlusion", "feature-maps", "deconv", "guided", "top-patches", "filters"
]  # fmt: skip
"""`LAYER_METHODS` and `OTHER_METHODS` in `explaining/drawing.py`."""

TrackerName = Literal["tensorboard", "mlflow", "wandb"]
"""`TRACKERS` in `tracking/__init__.py`."""

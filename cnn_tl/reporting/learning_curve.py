"""The learning curve that `cnn-tl learning-curve` has saved in a run folder, for the report of the run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

from cnn_tl.core import files
from cnn_tl.core.errors import CnnTlError
from cnn_tl.pages.charts.learning_curve import Mark
from cnn_tl.pages.content import SavedCurve
from cnn_tl.training.run_folder import RunFolder


def saved_curve(folder: RunFolder) -> SavedCurve | None:
    """Return the curve of a run; None if there is none, or its file is damaged."""
    if not folder.learning_curve.is_file():
        return None
    with contextlib.suppress(CnnTlError, OSError, TypeError, ValueError, KeyError, AttributeError):
        stored = files.read_json(folder.learning_curve)
        measured, foretold = ([_mark(one) for one in stored[key]] for key in ("points", "outlooks"))
        if measured:
            return SavedCurve(str(stored["verdict"]), str(stored["check_in_words"]), measured, foretold)
    return None


def _mark(stored: Mapping[str, Any]) -> Mark:
    low, high = stored["interval"]
    mark = Mark(int(stored["images"]), float(stored["accuracy"]), float(low), float(high))
    if mark.images < 1 or not all(map(math.isfinite, (mark.accuracy, mark.low, mark.high))):
        raise ValueError("no accuracy")
    return mark

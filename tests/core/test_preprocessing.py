"""What a bundle or an export says of its preprocessing is believed only where it can be meant."""

from __future__ import annotations

from typing import Any

import pytest

from cnn_tl.core.errors import ArtefactError
from cnn_tl.core.preprocessing import Preprocessing

SPEC = Preprocessing(224, 224, "bicubic", 0.875, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_what_was_written_is_read_back() -> None:
    assert Preprocessing.from_dict(SPEC.to_dict()) == SPEC


@pytest.mark.parametrize(
    "change",
    [
        {"crop_pct": 1e-9}, {"crop_pct": 1e-3}, {"crop_pct": 0}, {"crop_pct": 1.01}, {"crop_pct": float("nan")},
        {"height": 8192, "width": 8192, "crop_pct": 0.25}, {"height": 0}, {"width": 10_000}, {"max_pixels": 0},
        {"std": (0.5, 0.5, 0)}, {"mean": (0.5, 0.5, float("inf"))}, {"interpolation": "sinc"}, {"crop_mode": "half"},
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_name(change: dict[str, Any]) -> None:
    with pytest.raises(ArtefactError, match=r"the preprocessing that m\.onnx names has impossible values"):
        Preprocessing.from_dict(SPEC.to_dict() | change, "m.onnx")


@pytest.mark.parametrize("change", [{"mean": (0.5, 0.5)}, {"crop_pct": "all"}, {"padding": 3}])
def test_what_is_of_another_kind_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ArtefactError, match="the preprocessing that the file names is damaged"):
        Preprocessing.from_dict(SPEC.to_dict() | change)

"""Whether a device can be trusted with views is found out before it draws any."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cnn_tl.data.views.augment import Augmentation
from cnn_tl.training.views import agreement, finishing
from cnn_tl.training.views.agreement import agrees

SETTINGS = Augmentation(0.35, True, 0.2, "randaugment", 9, 2, 0.25)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def forgotten() -> None:
    agrees.cache_clear()


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_that_computes_the_same(device: str) -> None:
    assert agrees(torch.device(device), SETTINGS)


@pytest.mark.parametrize("error", [NotImplementedError, RuntimeError, TypeError])
def test_a_device_without_an_operation(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> Any:
        raise error("not implemented for 'MPS'")

    monkeypatch.setattr(finishing, "grey", fail)
    assert not agrees(torch.device("cpu"), SETTINGS)


def test_a_device_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = agreement.RandomViews.__call__, []

    def first_is_wrong(self: Any, *given: Any) -> torch.Tensor:
        calls.append(self)
        return real(self, *given) // (2 if len(calls) == 1 else 1)

    monkeypatch.setattr(agreement.RandomViews, "__call__", first_is_wrong)
    assert not agrees(torch.device("cpu"), SETTINGS)
    assert len(calls) == 2

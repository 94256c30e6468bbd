"""The model has run in every size of batch before the first request."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import small_server

from cnn_tl.serving.service import Service


@pytest.mark.parametrize(
    ("asynchronous", "batch_size", "sizes"), [(True, 16, [1, 2, 4, 8, 16]), (True, 5, [1, 2, 4, 5]), (False, 16, [1])]
)
def test_warming_up_runs_each_size_where_it_is_costly(
    monkeypatch: pytest.MonkeyPatch, asynchronous: bool, batch_size: int, sizes: list[int]
) -> None:
    seen: list[int] = []

    def counting(pixels: Any) -> Any:
        seen.append(len(pixels))
        return small_server.by_brightness(pixels)

    engine: Any = SimpleNamespace(is_asynchronous=asynchronous)
    classifier = replace(small_server.classifier(counting), engine=engine)
    monkeypatch.setattr(small_server, "classifier", lambda logits: classifier)
    service: Service = small_server.service(batch_size=batch_size, max_wait=0.5)
    try:
        service.warm_up()
        assert seen == sizes
    finally:
        service.close()

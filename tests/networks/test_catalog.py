from __future__ import annotations

from pathlib import Path

import pytest
import timm

from cnn_tl.networks import catalog, hub, weights


@pytest.fixture(autouse=True)
def nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cached", lambda card: None)


def test_everything_and_the_default_model_first() -> None:
    names = catalog.matching()
    assert sorted(names) == sorted(timm.list_models())
    assert names[0] == "tf_efficientnet_lite0"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("dpn48", ["dpn48b"]),
        ("DPN48B", ["dpn48b"]),
        ("dpn4?b", ["dpn48b"]),
        ("pn48", ["dpn48b"]),
        ("pn48*", []),
        ("resnet18.tv", ["resnet18.tv_in1k"]),
        ("no such thing", []),
    ],
)
def test_queries(query: str, expected: list[str]) -> None:
    assert catalog.matching(query) == expected


def test_what_is_here_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    in_cache = {"timm/resnet26t.ra2_in1k"}
    monkeypatch.setattr(hub, "cached", lambda card: Path("w") if card.hf_hub_id in in_cache else None)
    assert catalog.matching("resnet26")[0] == "resnet26t"
    assert catalog.matching("resnet26", here_only=True) == ["resnet26t"]
    assert [row.here for row in catalog.search("resnet26", limit=2)] == [True, False]


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    lite0 = sum(p.numel() for p in timm.create_model("tf_efficientnet_lite0").parameters())
    assert catalog.search("tf_efficientnet_lite0") == [
        catalog.ModelRow("tf_efficientnet_lite0", lite0, 224, "package")
    ]
    assert catalog.describe("inception_v3").input_size == 299
    assert [catalog.describe(name).weights for name in ("resnet18", "dpn48b")] == ["download", "none"]
    monkeypatch.setattr(weights, "packaged", lambda card: None)
    assert catalog.describe("tf_efficientnet_lite0").weights == "download"


def test_limit() -> None:
    assert len(catalog.search("vit", limit=3)) == 3

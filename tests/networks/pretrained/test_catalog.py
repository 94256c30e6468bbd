from __future__ import annotations

from pathlib import Path

import pytest
import timm

from cnn_tl.networks.pretrained import catalog, hub, known, weights


@pytest.fixture(autouse=True)
def nothing_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "cached", lambda cfg: None)


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
    monkeypatch.setattr(hub, "cached", lambda cfg: Path("w") if cfg.hf_hub_id in in_cache else None)
    assert catalog.matching("resnet26")[:2] == ["resnet26", "resnet26t"]
    assert catalog.matching("resne")[0] == "resnet26t"
    assert catalog.matching("resnet26", here_only=True) == ["resnet26t"]
    assert [row.here for row in catalog.search("resnet26", limit=3)] == [False, True, False]


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("resnet", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet10t", "resnet14t"]),
        ("resnet50", ["resnet50", "resnet50_clip", "resnet50_clip_gap"]),
        ("ResNet50.", ["resnet50.a1_in1k", "resnet50.a1h_in1k"]),
        ("convnext_*", ["convnext_atto", "convnext_base", "convnext_femto"]),
        ("efficientnet", ["efficientnet_b0", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4"]),
        ("vit_small", ["vit_small_patch16_224"]),
        ("patch16_224", ["deit3_small_patch16_224", "deit_base_patch16_224"]),
    ],
)
def test_what_begins_with_the_query_and_is_well_known_comes_first(query: str, first: list[str]) -> None:
    assert catalog.matching(query)[: len(first)] == first


def test_accuracies_are_of_weights_that_timm_has() -> None:
    tagged = set(timm.list_models(pretrained=True))
    assert set(known.TOP1) <= tagged
    assert len(set(known.NAMES)) == len(known.TOP1)
    assert all(55 < top1 < 91 for top1 in known.TOP1.values())
    assert [catalog.describe(name).top1 for name in ("resnet50", "resnet50.tv_in1k", "dpn48b")] == [81.214, None, None]


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    lite0 = sum(p.numel() for p in timm.create_model("tf_efficientnet_lite0").parameters())
    assert catalog.search("tf_efficientnet_lite0") == [
        catalog.ModelRow("tf_efficientnet_lite0", lite0, 224, "package", 74.83)
    ]
    assert catalog.describe("inception_v3").input_size == 299
    assert [catalog.describe(name).weights for name in ("resnet18", "dpn48b")] == ["download", "none"]
    monkeypatch.setattr(weights, "packaged", lambda cfg: None)
    assert catalog.describe("tf_efficientnet_lite0").weights == "download"


def test_limit() -> None:
    assert len(catalog.search("vit", limit=3)) == 3


def test_without_timm_the_models_that_need_no_torch_are_described_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_package_file", lambda package: None if "lite2" in package else Path("w"))
    whole = {name: catalog.describe(name) for name in catalog.matching("tf_efficientnet_lite[012]")}
    monkeypatch.setattr(catalog, "lists_all", lambda: False)
    assert catalog.matching("resnet") == []
    assert catalog.matching("*lite?.in1k") == [f"tf_efficientnet_lite{number}.in1k" for number in range(3)]
    assert {name: catalog.describe(name) for name in catalog.matching()} == whole
    assert whole["tf_efficientnet_lite2"].weights == "download"

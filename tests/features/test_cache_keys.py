"""What changes a feature changes its key, and nothing else does."""

from __future__ import annotations

from dataclasses import fields, replace
from importlib.metadata import version
from typing import Any

import pytest

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views.augment import Augmentation
from cnn_tl.features import cache_keys
from cnn_tl.features.cache_keys import onnx_facts, plain_facts, row_key, source_facts, space_facts, view_seed
from cnn_tl.networks.info import NetworkInfo

SPEC = Preprocessing(64, 64, "bicubic", 0.875, "center", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
NETWORK = NetworkInfo(
    name="resnet18.a1_in1k", architecture="resnet18", arguments={}, timm="1.0.31", weights="weights from a.pth",
    preprocessing=SPEC, backbone_sha256="00" * 32, num_features=512, backbone_parameters=1, classifier="fc",
    convolution=False, config={},
)  # fmt: skip
SHA256 = "ab" * 32
CROPS = Augmentation(0.5, True, 0.2)


def test_the_plain_view_depends_on_the_bytes_alone() -> None:
    assert row_key(SHA256, 0, 1, None) == row_key(SHA256, 0, 2, CROPS) == bytes.fromhex(SHA256)


@pytest.mark.parametrize(
    "other",
    [
        ("cd" * 32, 1, 7, CROPS),
        (SHA256, 2, 7, CROPS),
        (SHA256, 1, 8, CROPS),
        (SHA256, 1, 7, Augmentation(0.6, True, 0.2)),
    ],
)
def test_an_augmented_view_depends_on_bytes_view_seed_and_settings(other: Any) -> None:
    one = row_key(SHA256, 1, 7, CROPS)
    assert len(one) == 32
    assert one == row_key(SHA256, 1, 7, CROPS)
    assert one != row_key(*other)


def test_settings_that_came_later_leave_the_keys_of_older_views_as_they_are() -> None:
    assert row_key(SHA256, 1, 7, CROPS).hex() == "53d3df006e261714dd7630805446a492899665346dd76b1fa1423e3a9ffdcbad"
    weakest = replace(CROPS, policy="randaugment", magnitude=0, ops=2)
    assert row_key(SHA256, 1, 7, weakest).hex() == "11f97b5c219570dd3c3acef9111e89d267aee9bdf8538bad00bcf7d17b7bddc9"


def test_every_setting_of_the_augmentation_counts() -> None:
    others: list[dict[str, Any]] = [
        {}, {"crop_scale_min": 0.6}, {"flip": False}, {"color": 0.3}, {"erasing": 0.25}, {"erasing": 0.5},
        {"policy": "trivialaugment"}, {"policy": "randaugment", "magnitude": 9, "ops": 2},
        {"policy": "randaugment", "magnitude": 10, "ops": 2}, {"policy": "randaugment", "magnitude": 9, "ops": 3},
    ]  # fmt: skip
    assert {name for other in others for name in other} == {field.name for field in fields(Augmentation)}
    assert len({row_key(SHA256, 1, 7, replace(CROPS, **other)) for other in others}) == len(others)


def test_a_view_cut_from_a_source_is_another() -> None:
    cache_keys = {row_key(SHA256, 1, 7, CROPS, side) for side in (None, 96, 128)}
    assert len(cache_keys) == 3
    assert row_key(SHA256, 0, 7, CROPS, 96) == row_key(SHA256, 0, 7, CROPS)


def test_what_decides_a_kept_image() -> None:
    assert plain_facts(SPEC) == plain_facts(replace(SPEC, max_pixels=1000, min_side=9))
    assert plain_facts(SPEC) != plain_facts(replace(SPEC, interpolation="bilinear"))
    assert len({str(source_facts(side, row)) for side, row in ((96, 96), (128, 96), (128, 128))}) == 3


def test_views_are_drawn_apart() -> None:
    seeds = {view_seed(sha256, view, seed) for sha256 in ("ab", "cd") for view in range(3) for seed in range(2)}
    assert len(seeds) == 12


@pytest.mark.parametrize(
    "change",
    [
        {"backbone_sha256": "01" * 32},
        {"architecture": "resnet34"},
        {"arguments": {"img_size": 64}},
        {"timm": "1.0.32"},
        *({"preprocessing": replace(SPEC, **{key: value})} for key, value in [
            ("height", 65), ("width", 65), ("interpolation", "bilinear"), ("crop_pct", 0.9), ("crop_mode", "squash"),
            ("mean", (0.5, 0.5, 0.4)), ("std", (0.2, 0.2, 0.3)),
        ]),
    ],
    ids=str,
)  # fmt: skip
def test_a_space_depends_on_the_network_and_the_preprocessing(change: dict[str, Any]) -> None:
    assert space_facts(replace(NETWORK, **change), precision="fp32", device="cpu") != space_facts(
        NETWORK, precision="fp32", device="cpu"
    )


def test_a_space_depends_on_how_it_is_computed() -> None:
    ways: list[dict[str, Any]] = [
        {"precision": "fp32", "device": "cpu"},
        {"precision": "bf16", "device": "cpu"},
        {"precision": "fp32", "device": "cuda"},
        {"precision": "fp32", "device": "cuda", "hardware": "cuda (one)"},
        {"precision": "fp32", "device": "cuda", "hardware": "cuda (other)"},
        {"precision": "fp32", "device": "cpu", "split_point": "layer4"},
    ]
    assert len({str(space_facts(NETWORK, **way)) for way in ways}) == len(ways)


def test_a_space_of_onnxruntime_depends_on_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        onnx_facts(NETWORK, b"graph"),
        onnx_facts(NETWORK, b"another graph"),
        onnx_facts(replace(NETWORK, backbone_sha256="other weights"), b"graph"),
        onnx_facts(replace(NETWORK, preprocessing=replace(SPEC, crop_pct=1.0)), b"graph"),
        space_facts(NETWORK, precision="fp32", device="cpu"),
    ]
    monkeypatch.setattr(cache_keys, "processor", lambda: "another")
    found.append(onnx_facts(NETWORK, b"graph"))
    monkeypatch.setattr(cache_keys, "version", lambda name: "99" if name == "onnxruntime" else version(name))
    found.append(onnx_facts(NETWORK, b"graph"))
    assert len({str(facts) for facts in found}) == len(found)


def test_features_of_onnxruntime_do_not_depend_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with torch and one without share a cache."""
    before = onnx_facts(NETWORK, b"graph")
    monkeypatch.setattr(cache_keys, "version", lambda name: "99" if name == "torch" else version(name))
    assert onnx_facts(replace(NETWORK, timm="99"), b"graph") == before


def test_neither_names_nor_limits_count() -> None:
    same = replace(NETWORK, name="resnet18", weights="weights from b.pth", preprocessing=replace(SPEC, max_pixels=9999))
    assert space_facts(same, precision="fp32", device="cpu") == space_facts(NETWORK, precision="fp32", device="cpu")


@pytest.mark.parametrize("package", ["torch", "pillow"])
def test_a_space_depends_on_who_computes(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = space_facts(NETWORK, precision="fp32", device="cpu")
    monkeypatch.setattr(cache_keys, "version", lambda name: "99" if name == package else version(name))
    assert space_facts(NETWORK, precision="fp32", device="cpu") != before


def test_a_space_depends_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels differ from one to the next, and a cache may lie in a home that several machines share."""
    before = space_facts(NETWORK, precision="fp32", device="cpu")
    monkeypatch.setattr(cache_keys, "processor", lambda: "another")
    assert space_facts(NETWORK, precision="fp32", device="cpu") != before


def test_a_kept_view_depends_on_the_decoder_and_the_size_of_its_row() -> None:
    assert plain_facts(SPEC)["pillow"] == source_facts(96, 128)["pillow"] == version("pillow")
    assert source_facts(96, 96) != source_facts(96, 128) != source_facts(128, 128)
    assert plain_facts(SPEC) != plain_facts(replace(SPEC, mean=(0.4, 0.5, 0.5)))

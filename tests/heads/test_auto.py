"""Which head `auto` fits: by the size of the problem alone, and as the plan says."""

from __future__ import annotations

import numpy as np
import pytest

from cnn_tl.heads import HEADS, Problem
from cnn_tl.heads.auto import FEW, MAX_SECONDS, choose, lbfgs_seconds, ridge_seconds
from cnn_tl.recipe import load
from cnn_tl.recipe.defaults import HEAD_DEFAULTS


@pytest.mark.parametrize(
    ("images", "classes"), [(225, 3), (200, 2), (3_453, 5), (6_000, 10), (50_000, 100), (1_000, 20), (15, 3)]
)
def test_ordinary_sets_get_logistic_and_ridge_regression(images: int, classes: int) -> None:
    assert str(choose(images, 1, 1280, classes)) == "lbfgs+ridge"


@pytest.mark.parametrize(("images", "classes"), [(2_000, 1_000), (600, 200), (12, 3), (4, 2)])
def test_few_images_of_each_class_get_ridge(images: int, classes: int) -> None:
    assert str(choose(images, 1, 1280, classes)) == "ridge: few images of each class"


@pytest.mark.parametrize(("images", "views", "features", "classes"), [
    (5_000, 1, 1280, 500), (4_000, 1, 2048, 400), (100_000, 1, 1280, 1_000), (2_000, 8, 1280, 200),
])  # fmt: skip
def test_where_lbfgs_would_take_minutes_ridge_is_fitted_and_the_time_is_said(
    images: int, views: int, features: int, classes: int
) -> None:
    choice = choose(images, views, features, classes)
    assert choice.kind == "ridge"
    assert choice.reason.startswith("lbfgs would take ")
    assert choice.reason.endswith((" s", " min"))
    assert lbfgs_seconds(images, views, features, classes) > MAX_SECONDS
    assert ridge_seconds(images, views, features, classes) < lbfgs_seconds(images, views, features, classes)


@pytest.mark.parametrize(("each", "kind"), [(FEW - 1, "ridge"), (FEW, "lbfgs+ridge")])
@pytest.mark.parametrize("classes", [2, 7])
def test_auto_fits_what_it_has_chosen_to_the_bit(each: int, kind: str, classes: int) -> None:
    labels = np.repeat(np.arange(classes), each)
    features = np.random.default_rng(0).normal(size=(len(labels), 6)).astype(np.float32) + labels[:, None]
    problem = Problem([features], labels, classes, np.ones(classes), seed=0)
    chosen, named = HEADS["auto"](problem, HEAD_DEFAULTS["auto"]), HEADS[kind](problem, HEAD_DEFAULTS[kind])
    assert chosen.facts["kind"] == kind
    assert bool(chosen.facts["chosen_because"]) == (kind == "ridge")
    np.testing.assert_array_equal(chosen.tensors["weight"], named.tensors["weight"])


def test_a_penalty_alone_means_lbfgs_whose_unit_it_is_in() -> None:
    assert load(None, []).head.kind == "auto"
    assert load(None, ["head.penalty=0.1"]).head.kind == "lbfgs"
    assert load(None, ["head.penalty=0.1", "head.kind=ridge"]).head.kind == "ridge"


def test_recipes_of_earlier_versions_still_resolve() -> None:
    """They were written with `kind: lbfgs` in every mode."""
    assert load(None, ["mode=finetune", "head.kind=lbfgs"]) == load("finetune"), "which has no fitted head"

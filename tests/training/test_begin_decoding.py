"""What is decoded while the run is planned is what the run needs, once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from whole_runs import assert_same_weights, metrics

from cnn_tl.core.errors import CnnTlError
from cnn_tl.data.reading import ahead, pool
from cnn_tl.data.reading.jobs import Job
from cnn_tl.recipe import Recipe
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.modes import finetune
from cnn_tl.training.run import train

Make = Callable[..., Recipe]
TWO = {"workers": 2, "precision": "fp32"}  # else each cache has a measurement of its own


@pytest.fixture(autouse=True)
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Let processes decode even few images; return what they are told to do."""
    told: list[Job] = []
    submit = pool.Pool.submit

    def watched(self: pool.Pool, some: Sequence[Job]) -> pool.Chunk:
        told.extend(some)
        return submit(self, some)

    monkeypatch.setattr(ahead, "PROCESSES_FROM", 1)
    monkeypatch.setattr(ahead, "IMAGES_EACH", 0)
    monkeypatch.setattr(pool.Pool, "submit", watched)
    return told


def begin_before_the_plan(monkeypatch: pytest.MonkeyPatch, then: Callable[[Dataset], object] = lambda _: None) -> None:
    """Do what a run on CUDA does."""
    plan_loop = finetune.plan_loop

    def planned(run: Any, dataset: Dataset, network: Any) -> Any:
        dataset.begin_decoding()
        then(dataset)
        return plan_loop(run, dataset, network)

    monkeypatch.setattr(finetune, "plan_loop", planned)


def test_the_run_is_the_same_and_nothing_is_decoded_twice(
    recipe: Make, tmp_path: Path, own_cache: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    train(recipe("finetune", run=TWO), tmp_path / "plain")
    plain = [repr(job) for job in jobs]
    jobs.clear()
    monkeypatch.setenv("CNN_TL_CACHE", str(own_cache.with_name("other cache")))
    begin_before_the_plan(monkeypatch)
    train(recipe("finetune", run=TWO), tmp_path / "begun")
    assert [repr(job) for job in jobs] == plain
    assert plain
    assert_same_weights(tmp_path / "plain", tmp_path / "begun")
    assert [row["val_loss"] for row in metrics(tmp_path / "plain")] == [
        row["val_loss"] for row in metrics(tmp_path / "begun")
    ]
    assert not pool._shared.pools


def test_what_has_begun_for_other_images_is_dropped(
    recipe: Make, tmp_path: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forget_one(dataset: Dataset) -> None:
        image = dataset.manifest.of("train")[0]
        dataset._selection.manifest = dataset.manifest.without([(image, "for the test")])

    begin_before_the_plan(monkeypatch, forget_one)
    result = train(recipe("finetune", run=TWO), tmp_path / "run")
    assert result.images > 0
    assert len(jobs) > len({repr(job) for job in jobs}), "it began again"
    assert not pool._shared.pools


def test_a_plan_that_fails_leaves_no_process(recipe: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Dataset) -> None:
        raise CnnTlError("no")

    begin_before_the_plan(monkeypatch, fail)
    with pytest.raises(CnnTlError, match="no"):
        train(recipe("finetune", run=TWO), tmp_path / "run")
    assert not pool._shared.pools

"""What falls to each process where they do not find the same in the cache; threads stand in for the processes."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from cnn_tl.core.errors import CnnTlError
from cnn_tl.core.processes import World
from cnn_tl.core.progress import Observer
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.networks.backbone import place
from cnn_tl.recipe import Recipe
from cnn_tl.training import backbone_graph
from cnn_tl.training.context import Run
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.image_store import ImageStore
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.loop.activations import Activations, open_activations
from cnn_tl.training.modes import features, freeze
from cnn_tl.training.modes.backend import choose_backend
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.setup import open_run
from cnn_tl.training.step.unfreezing import Phases

BATCH_SIZE = 16

T = TypeVar("T")
PATIENCE = 60.0
FP32 = {"precision": "fp32"}


class Meeting:
    """Where threads wait for each other and exchange a value.

    Attributes:
        waits: for each rank, whether it has come here.
    """

    def __init__(self, size: int) -> None:
        self.waits = [threading.Event() for _ in range(size)]
        self._values: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=PATIENCE)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self._values[rank] = value
        self.waits[rank].set()
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values


@dataclass(frozen=True)
class Beside(World):
    """A world of threads."""

    meeting: Meeting = field(default_factory=lambda: Meeting(1))

    def gather(self, value: T) -> list[T]:
        return self.meeting.exchange(self.rank, value)

    def first(self, compute: Callable[[], T]) -> T:
        value: T = self.meeting.exchange(self.rank, compute() if self.is_first else None)[0]
        return value

    def settle(self, error: CnnTlError | None = None) -> None:
        for met in self.meeting.exchange(self.rank, error):
            if met is not None:
                raise met


Opened = tuple[Run, Dataset, LazyNetwork]


def beside(opened: Opened, rank: int, size: int, meeting: Meeting) -> Opened:
    """Return the same as one of several processes has it."""
    run, dataset, network = opened
    run = replace(run, world=Beside(rank, size, rank, size, meeting=meeting))
    return run, dataset.of(run), network


def side_by_side(opened: Sequence[Opened], work: Callable[[int, Run, Dataset, LazyNetwork], T]) -> list[T]:
    """Do the work of each rank in a thread; one begins when the one before waits for it, as if it were far slower."""
    size, meeting = len(opened), Meeting(len(opened))
    with ThreadPoolExecutor(size) as pool:
        doing = []
        for rank, one in enumerate(opened):
            doing.append(pool.submit(work, rank, *beside(one, rank, size, meeting)))
            assert meeting.waits[rank].wait(PATIENCE)
        return [one.result() for one in doing]


@pytest.fixture
def open_one(recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Opened]:
    def begin(mode: str, observer: Observer | None = None, **sections: Any) -> Opened:
        chosen = recipe(mode, run=FP32, **sections).resolve()
        return open_run(chosen, RunFolder(tmp_path / "run"), observer or Observer(), resume=False)

    return begin


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_each_content_falls_to_one_and_all_have_about_as_many(size: int) -> None:
    contents = [hashlib.sha256(bytes([number % 256, number // 256])).hexdigest() for number in range(4000)]
    for rank in range(size):
        on_one_machine, on_many = World(rank, size, rank, size), World(rank, size)
        mine = [sha256 for sha256 in contents if on_one_machine.owns_locally(sha256)]
        assert mine == [sha256 for sha256 in contents if on_many.owns(sha256)]
        assert len(mine) == pytest.approx(4000 / size, rel=0.1)
        assert all(on_many.owns_locally(sha256) for sha256 in mine), "alone on its machine, it has all of them there"
    shares = [[World(rank, size).owns(sha256) for sha256 in contents] for rank in range(size)]
    assert all(sum(claims) == 1 for claims in zip(*shares, strict=True))


@pytest.mark.parametrize("size", [2, 3])
def test_each_image_is_decoded_by_one_process_though_others_have_written_before(
    open_one: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    decoded: Counter[tuple[ImageRecord, str]] = Counter()
    real = ImageStore.job

    def job(self: ImageStore, image: ImageRecord, kind: Any) -> Any:
        decoded[image, kind] += 1
        return real(self, image, kind)

    monkeypatch.setattr(ImageStore, "job", job)
    opened = [open_one("finetune") for _ in range(size)]
    images = opened[0][1].manifest.images
    side_by_side(opened, lambda rank, run, dataset, network: dataset.check_images())
    assert {image for image, _ in decoded} == set(images)
    assert set(decoded.values()) == {1}
    assert not any(dataset.images.lacking(images) for _, dataset, _ in opened)


def test_each_activation_is_computed_by_one_process_and_found_by_all(open_one: Callable[..., Opened]) -> None:
    opened = [open_one("finetune", model={"freeze": "last-stage"}) for _ in range(2)]
    images = opened[0][1].manifest.of("train")
    computed: Counter[ImageRecord] = Counter()
    rows: list[Any] = []

    def read(groups: Sequence[Sequence[ImageRecord]]) -> Iterator[torch.Tensor]:
        computed.update(image for group in groups for image in group)
        return (torch.from_numpy(batch.pixels) for batch in opened[0][1].read_plain(groups))

    def fill(rank: int, run: Run, dataset: Dataset, network: LazyNetwork) -> None:
        found = _activations(dataset, network)
        with run.world.together():
            assert found.fill(images, 0, read)
        rows.append(found.read(images, 0, read).numpy())

    side_by_side(opened, fill)
    assert computed == Counter(images)
    assert np.array_equal(*rows)


def _activations(dataset: Dataset, network: LazyNetwork) -> Activations:
    model = place(network.model, network.device)
    Phases(model, dataset.run.recipe.model, []).enter(1)
    found, _ = open_activations(dataset, network, dataset.manifest.of("train"), 1, "fp32")
    assert found is not None
    return found


def test_the_first_process_decides_what_computes_though_the_others_know_less(open_one: Callable[..., Opened]) -> None:
    opened = [open_one("freeze") for _ in range(2)]
    backbone_graph.find_graph(*opened[0])
    opened[0][2].has_agreed_graph = False  # as where its cache knows the graph, and the run begins
    found = side_by_side(opened, lambda rank, run, dataset, network: choose_backend(run, dataset, network))
    assert found[0].graph is not None
    assert found[1] == found[0]


@pytest.mark.numbers
def test_features_come_together_though_each_machine_has_others_in_its_cache(
    open_one: Callable[..., Opened], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opened, found = [], []
    for name, known in (("first", slice(0, 12)), ("second", slice(6, 24))):
        monkeypatch.setenv("CNN_TL_CACHE", str(tmp_path / name))
        run, dataset, network = open_one("freeze")
        before = freeze.look_up(run, dataset, network).train
        features.embed(dataset, network, [replace(before, missing=before.missing[known])], BATCH_SIZE)
        opened.append((run, dataset, network))
        found.append(freeze.look_up(run, dataset, network))
    notes: list[str] = []
    opened[0][0].observer.note = notes.append  # type: ignore[method-assign]
    lacking, had = found[0].to_compute, {wanted.image for wanted in before.missing[slice(12, 24)]}

    def compute(rank: int, run: Run, dataset: Dataset, network: LazyNetwork) -> tuple[Any, ...]:
        mine = found[rank]
        train, val = (replace(split, dataset=dataset) for split in (mine.train, mine.val))
        return freeze._compute(run, dataset, network, replace(mine, train=train, val=val))

    computed = side_by_side(opened, compute)
    brought = sum(World(1, 2).owns(image.sha256) for image in had)
    assert 0 < brought < len(had)
    assert {reads.computed for *_, reads in computed} == {lacking - brought}
    whole = open_one("freeze", features={"cache": False})
    expected = freeze._compute(*whole, freeze.look_up(*whole))
    for mine, theirs in zip(computed[0][:2], expected[:2], strict=True):
        assert np.array_equal(mine[0], theirs[0])
    assert not notes, "nothing was lost on the way"

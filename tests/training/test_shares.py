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

from cnn_tl.core.errors import CnnTlError
from cnn_tl.core.processes import World
from cnn_tl.core.progress import Observer
from cnn_tl.data.loader import Batch
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.features.speed import BATCH_SIZE
from cnn_tl.networks.backbone import place
from cnn_tl.recipe import Recipe
from cnn_tl.training.context import Session
from cnn_tl.training.images import ImageStore
from cnn_tl.training.loop.activations import Boundary, open_boundary
from cnn_tl.training.modes import features, freeze
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.setup import open_session
from cnn_tl.training.step.unfreezing import Phases

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


def side_by_side(sessions: Sequence[Session], work: Callable[[int], T]) -> list[T]:
    """Do the work of each rank in a thread; one begins when the one before waits for it, as if it were far slower."""
    size, meeting = len(sessions), Meeting(len(sessions))
    with ThreadPoolExecutor(size) as pool:
        doing = []
        for rank, session in enumerate(sessions):
            session.world = Beside(rank, size, rank, size, meeting=meeting)
            doing.append(pool.submit(work, rank))
            assert meeting.waits[rank].wait(PATIENCE)
        return [one.result() for one in doing]


@pytest.fixture
def open_one(recipe: Callable[..., Recipe], tmp_path: Path) -> Callable[..., Session]:
    def begin(mode: str, observer: Observer | None = None, **sections: Any) -> Session:
        chosen = recipe(mode, run=FP32, **sections).resolve()
        return open_session(chosen, RunFolder(tmp_path / "run"), observer or Observer(), resume=False)

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
    open_one: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    decoded: Counter[tuple[ImageRecord, str]] = Counter()
    real = ImageStore.decode

    def decode(self: ImageStore, image: ImageRecord, kind: Any) -> Any:
        decoded[image, kind] += 1
        return real(self, image, kind)

    monkeypatch.setattr(ImageStore, "decode", decode)
    sessions = [open_one("finetune") for _ in range(size)]
    images = sessions[0].manifest.images
    side_by_side(sessions, lambda rank: sessions[rank].check_images())
    assert {image for image, _ in decoded} == set(images)
    assert set(decoded.values()) == {1}
    assert not any(session.images.lacking(images) for session in sessions)


def test_each_activation_is_computed_by_one_process_and_found_by_all(open_one: Callable[..., Session]) -> None:
    sessions = [open_one("finetune", model={"freeze": "last-stage"}) for _ in range(2)]
    images = sessions[0].manifest.of("train")
    boundaries = [_boundary(session) for session in sessions]
    computed: Counter[ImageRecord] = Counter()

    def read(groups: Sequence[Sequence[ImageRecord]]) -> Iterator[Batch[ImageRecord]]:
        computed.update(image for group in groups for image in group)
        return sessions[0].read(groups, sessions[0].evaluation_pixels)

    def fill(rank: int) -> None:
        with sessions[rank].world.together():
            assert boundaries[rank].fill(images, 0, read)
        rows.append(boundaries[rank].read(images, 0, read).numpy())

    rows: list[Any] = []
    side_by_side(sessions, fill)
    assert computed == Counter(images)
    assert np.array_equal(*rows)


def _boundary(session: Session) -> Boundary:
    model = place(session.network.model, session.device)
    Phases(model, session.recipe.model, []).enter(1)
    found = open_boundary(session, session.manifest.of("train"), epochs=1)
    assert found is not None
    return found


@pytest.mark.numbers
def test_features_come_together_though_each_machine_has_others_in_its_cache(
    open_one: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sessions, prepared = [], []
    for name, known in (("first", slice(0, 12)), ("second", slice(6, 24))):
        monkeypatch.setenv("CNN_TL_CACHE", str(tmp_path / name))
        session = open_one("freeze")
        before = freeze.prepare(session).train
        features.embed(session, [replace(before, missing=before.missing[known])], BATCH_SIZE)
        sessions.append(session)
        prepared.append(freeze.prepare(session))
    notes: list[str] = []
    sessions[0].observer.note = notes.append  # type: ignore[method-assign]
    lacking, had = prepared[0].to_compute, {wanted.image for wanted in before.missing[slice(12, 24)]}

    parts = side_by_side(sessions, lambda rank: freeze._compute(sessions[rank], prepared[rank]))
    brought = sum(World(1, 2).owns(image.sha256) for image in had)
    assert 0 < brought < len(had)
    assert {session.facts["features"]["computed"] for session in sessions} == {lacking - brought}
    whole = open_one("freeze", features={"cache": False})
    expected = freeze._compute(whole, freeze.prepare(whole))
    for mine, theirs in zip(parts[0], expected, strict=True):
        assert np.array_equal(mine[0], theirs[0])
    assert not notes, "nothing was lost on the way"

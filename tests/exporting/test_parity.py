from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError
from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.core.progress import Observer
from cnn_tl.data.folders.scan import scan
from cnn_tl.exporting import comparison_images, parity
from cnn_tl.exporting.original import Original, original
from cnn_tl.networks.bundle import Bundle

Array = NDArray[np.float32]
SPEC = Preprocessing(16, 16, "bilinear", 1.0, "center", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
WEIGHT = np.array([[9, -5, 1], [-4, 8, 2]], np.float32)


class Recorder(Observer):
    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.done = 0

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def advance(self, done: int, figures: object = None) -> None:
        self.done += done


@pytest.fixture
def trained(tmp_path: Path, make_images: Callable[..., Path]) -> Bundle:
    """Return a bundle in a run with 20 validation images: a linear classifier on mean colours."""
    linear = torch.nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(WEIGHT))
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), linear).eval()
    data = make_images(tmp_path / "data", {"blue": 20, "red": 20})
    manifest = scan(data, seed=0, val_fraction=0.5)
    files.write_json(tmp_path / "run" / "manifest.json", manifest.to_json())
    return Bundle(tmp_path / "run" / "model", ("blue", "red"), SPEC, {}, model)


class Plain:
    """A function from normalised images to logits, as an export without preprocessing inside."""

    inside = False
    facts: Mapping[str, str] = {}

    def __init__(self, function: Callable[[Array], Array]) -> None:
        self._function = function

    def __call__(self, x: Array) -> Array:
        return self._function(x)

    def whole(self, images: NDArray[np.uint8]) -> Array:
        raise AssertionError("it takes no whole images")


def same(x: Array) -> Array:
    return x.mean((2, 3)) @ WEIGHT.T


def compare(trained: Bundle, export: Callable[[Array], Array], observer: Observer) -> Any:
    return parity.compare(trained.path, original(trained), Plain(export), observer)


def test_the_same_model_holds_on_real_images(trained: Bundle) -> None:
    observer = Recorder()
    agreements, images = compare(trained, same, observer)
    parity.require(agreements, images)
    assert images == "validation images"
    assert [(a.batch_size, a.images, a.top1) for a in agreements] == [(size, 20, 1) for size in (1, 2, 7, 33)]
    assert 0 < max(a.largest_difference for a in agreements) < 1e-5
    assert observer.done == 20
    assert observer.warnings == []


def test_the_export_gets_batches_of_the_size_that_is_claimed(trained: Bundle) -> None:
    sizes = []

    def listening(x: Array) -> Array:
        sizes.append(len(x))
        return same(x)

    compare(trained, listening, Observer())
    assert sizes == [1] * 20 + [2] * 10 + [7] * 3 + [33]


def only_in_batches_of(size: int) -> Callable[[Array], Array]:
    return lambda x: same(x) + (len(x) == size)


def one_wrong_pixel(x: Array) -> Array:
    logits = same(x)
    logits[-1, 0] += 1e-2
    return logits


@pytest.mark.parametrize(
    "export",
    [
        lambda x: same(x)[:, ::-1],
        lambda x: np.full_like(same(x), np.nan),
        lambda x: same(x) * np.inf,
        lambda x: same(x) * 1.001,
        lambda x: same(np.flip(x, 1)),
        one_wrong_pixel,
        only_in_batches_of(1),
        only_in_batches_of(2),
        only_in_batches_of(7),
        only_in_batches_of(33),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_another_model_is_refused(trained: Bundle, export: Callable[[Array], Array]) -> None:
    agreements, images = compare(trained, export, Observer())
    with pytest.raises(ArtefactError, match=r"differs from the model: .* on validation images"):
        parity.require(agreements, images)


def test_an_equal_logit_is_not_yet_an_equal_answer() -> None:
    flipped = parity.Agreement("prepared", 7, 10, largest_difference=1e-6, allowed_difference=1e-4, top1=0.9)
    with pytest.raises(ArtefactError, match="9 of 10 answers agree"):
        parity.require((flipped,), "10 images")


def test_two_answers_may_be_tied() -> None:
    expected = np.array([[1.0, 0.99999, 0], [3, 0, 0]], np.float32)
    found = np.array([[0.99999, 1.0, 0], [3, 0, 0]], np.float32)
    agreement = parity._agreement("prepared", 1, 2, expected, found)
    assert (agreement.top1, agreement.ties, agreement.holds) == (0.5, 1, True)
    expected[0, 1] = 0.9  # close no more
    agreement = parity._agreement("prepared", 1, 2, expected, found)
    assert (agreement.top1, agreement.ties, agreement.holds) == (0.5, 0, False)


@pytest.mark.parametrize("batch_size", parity.BATCH_SIZES)
def test_each_size_of_images_has_a_batch(batch_size: int) -> None:
    sizes = [list(range(40)), *([40 + n] for n in range(9)), [49, 50]]
    batches = parity._batches_of_one_size(sizes, batch_size)
    assert {len(batch) for batch in batches} == {batch_size}
    assert all(any(set(batch) <= set(size) for size in sizes) for batch in batches)
    assert all(any(set(batch) <= set(size) for batch in batches) for size in sizes)
    assert set(batches[0]) <= set(sizes[0])
    many = parity._batches_of_one_size([[n] for n in range(100)], batch_size)
    assert len(many) == max(-(-parity.MOST_WHOLE // batch_size), parity.MOST_SIZES)


def test_the_bound_grows_with_the_logits(trained: Bundle) -> None:
    agreements, _ = compare(trained, same, Observer())
    assert 1e-4 < agreements[0].allowed_difference < 1e-4 * np.abs(WEIGHT).sum()


def test_images_that_are_gone_or_broken_are_left_out(trained: Bundle) -> None:
    (gone, broken), total = comparison_images.validation_images(trained.path)[0][:2], 20
    gone.unlink()
    broken.write_bytes(b"not an image")
    agreements, images = compare(trained, same, Observer())
    assert images == f"validation images (drawn from {total})"
    assert [a.images for a in agreements] == [18] * 4


@pytest.mark.parametrize("lost", ["manifest", "data"])
def test_without_images_random_ones_are_taken_and_it_says_so(trained: Bundle, lost: str) -> None:
    if lost == "manifest":
        (trained.path.parent / "manifest.json").unlink()
    else:
        for path in comparison_images.validation_images(trained.path)[0]:
            path.unlink()
    seen: list[Array] = []

    def listening(x: Array) -> Array:
        seen.append(x)
        return same(x)

    observer = Recorder()
    agreements, images = compare(trained, listening, observer)
    assert images == "random images (the validation images are not here)"
    assert observer.warnings == ["the validation images are not here; comparing on random images"]
    assert [a.images for a in agreements] == [64] * 4
    first = np.concatenate(seen)
    seen.clear()
    compare(trained, listening, Observer())
    np.testing.assert_array_equal(np.concatenate(seen), first)


def test_many_images_are_chosen_by_lot(trained: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison_images, "MOST_IMAGES", 16)
    monkeypatch.setattr(parity, "MOST_IN_SMALL_BATCHES", 14)
    monkeypatch.setattr(comparison_images, "BLOCK", 14)
    chosen, total = comparison_images.validation_images(trained.path)
    assert total == 20
    assert len(set(chosen)) == 16
    assert chosen == comparison_images.validation_images(trained.path)[0]
    assert {path.parent.name for path in chosen[:14]} == {"blue", "red"}
    agreements, images = compare(trained, same, Observer())
    assert images == "validation images (drawn from 20)"
    assert [a.images for a in agreements] == [14, 14, 14, 16]


def test_a_damaged_manifest_is_no_reason_for_random_images(trained: Bundle) -> None:
    (trained.path.parent / "manifest.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"manifest\.json is damaged"):
        compare(trained, same, Observer())


def test_one_logit_that_is_far_off_is_not_lost_among_many() -> None:
    expected = np.random.default_rng(0).normal(size=(50, 10)).astype(np.float32)
    found = expected.copy()
    found[17, 3] -= 0.25
    agreement = parity._agreement("prepared", 1, 10, expected, found)
    assert agreement.largest_difference == pytest.approx(0.25)
    assert not agreement.holds


@pytest.mark.parametrize(("scale", "allowed"), [(0.001, 1e-4), (1.0, 1e-4), (50.0, 5e-3)])
def test_what_is_allowed_is_a_share_of_the_largest_logit_or_of_one(scale: float, allowed: float) -> None:
    expected = scale * np.eye(4, dtype=np.float32)
    agreement = parity._agreement("prepared", 1, 4, expected, expected)
    assert agreement.allowed_difference == pytest.approx(allowed)
    assert agreement.holds


def test_of_whole_images_each_counts_once_however_often_it_fills_a_batch() -> None:
    class Brightness:
        inside = True

        def __call__(self, pixels: Array) -> Array:
            mean = pixels.mean((1, 2, 3)) / 255
            return np.stack([mean, 1 - mean], 1).astype(np.float32)

        def whole(self, images: Array) -> Array:
            logits = self(images)
            logits[images[:, 0, 0, 0] == 250] = (0, 1)  # this one is answered wrongly
            return logits

    images = [np.full((20, width, 3), value, np.uint8) for width, value in ((30, 10), (30, 250), (40, 90))]
    for found in parity._whole_agreements(Original("", SPEC, 2, Brightness()), Brightness(), images):  # type: ignore[arg-type]
        assert (found.images, found.sizes, found.top1) == (3, 2, pytest.approx(2 / 3))
        assert found.largest_difference == pytest.approx(250 / 255)

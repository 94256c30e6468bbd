"""Neighbours and hashes against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from doctor.twins.pictures import picture

from cnn_tl.doctor.twins import candidates
from cnn_tl.doctor.twins.candidates import Whitening, by_features, by_hash, cosines, hashes


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [7, 1024])
def test_neighbours_are_those_of_all_cosines(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(candidates, "BLOCK", block)
    white = unit(np.random.default_rng(0).normal(size=(50, 9)).astype(np.float32))
    whole = white @ white.T
    np.fill_diagonal(whole, -2)
    expected = {tuple(sorted((row, int(near)))) for row in range(50) for near in np.argsort(-whole[row])[:3]}
    pairs = by_features(white, 3)
    assert {tuple(pair) for pair in pairs.tolist()} == expected
    np.testing.assert_allclose(cosines(white, pairs), whole[pairs[:, 0], pairs[:, 1]], atol=1e-5)


def test_whitening_decorrelates() -> None:
    rng = np.random.default_rng(1)
    features = np.exp(rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6))).astype(np.float32)
    rows = (np.sqrt(features) - Whitening.of(features).mean) @ Whitening.of(features).matrix
    covariance = rows.T @ rows / len(rows)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-2
    np.testing.assert_allclose(np.linalg.norm(Whitening.of(features)(features), axis=1), 1, atol=1e-4)


def test_whitening_ranks_a_twin_first_where_plain_features_do_not() -> None:
    """Twins share what is rare; a strong direction that all images of a kind share hides it."""
    rng = np.random.default_rng(2)
    rare = rng.normal(size=(400, 100)) * 0.3
    features = np.concatenate([rng.normal(size=(400, 3)) * 3, rare], 1)
    features[1::2, 3:] = features[::2, 3:] + rng.normal(size=(200, 100)) * 0.15
    features = (features + 20).astype(np.float32) ** 2

    def first(rows: np.ndarray) -> float:
        whole = unit(rows) @ unit(rows).T
        np.fill_diagonal(whole, -2)
        return float((whole.argmax(1) == np.arange(400) ^ 1).mean())

    assert first(Whitening.of(features)(features)) > 0.95
    assert first(features - features.mean(0)) < 0.6


def test_hashes_find_a_changed_and_a_mirrored_image() -> None:
    images = [np.asarray(picture(n, 64)) for n in range(40)]
    images += [(0.7 * images[3] + 20).astype(np.uint8), images[5][:, ::-1]]
    thumbnails = np.array(images)
    codes, mirrored = hashes(thumbnails), hashes(thumbnails[:, :, ::-1])
    assert by_hash(codes, codes, 4, 2).tolist() == [[3, 40]]
    assert by_hash(codes, mirrored, 4, 2).tolist() == [[5, 41]]


def test_hash_candidates_are_the_nearest_few() -> None:
    codes = np.array([0, 1, 3, 7, 2**64 - 1], np.uint64)
    assert by_hash(codes, codes, 1, 8).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert by_hash(codes, codes, 64, 1).tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]


def test_many_candidates_are_cut_to_the_surest_and_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "most", lambda count: 60)
    rng = np.random.default_rng(3)
    white = unit(rng.normal(size=(100, 8)).astype(np.float32))
    codes = rng.integers(0, 2**64, 100, np.uint64)
    pairs, sample, cut_off = candidates.candidates(white, (codes, codes), 5, 40, seed=0)
    near = by_features(white, 5)
    assert len(sample) == 40
    assert 60 < len(pairs) <= 100 < len(near)
    assert {tuple(pair) for pair in pairs[sample].tolist()} <= {tuple(pair) for pair in near.tolist()}
    surest = near[np.argsort(-cosines(white, near))[:60]]
    assert {tuple(pair) for pair in surest.tolist()} <= {tuple(pair) for pair in pairs.tolist()}
    assert cut_off == pytest.approx(cosines(white, surest).min())
    assert candidates.candidates(white, (codes, codes), 1, 40, seed=0)[2] >= -1


def test_large_folders_keep_fewer_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    features = np.random.default_rng(4).normal(size=(50, 9)).astype(np.float32)
    whole = Whitening.of(features)(features)
    monkeypatch.setattr(candidates, "WHOLE", 49)
    monkeypatch.setattr(candidates, "DIRECTIONS", 4)
    found = Whitening.of(features)(features)
    assert found.shape == (50, 4)
    np.testing.assert_allclose(found, unit(whole[:, :4]), atol=1e-4)

"""A graph takes the tensors of its own model and nothing else; an image's features depend on that image alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from traced import tiny

from cnn_tl.core.errors import ArtefactError
from cnn_tl.data.views.transforms import normalise
from cnn_tl.networks.graph.session import INPUT, OUTPUT, open_session


def test_features_are_those_of_torch() -> None:
    network = tiny()
    pixels, session = network.pixels(3), open_session(network.graph, network.tensors)
    found = np.concatenate(
        [session.run([OUTPUT], {INPUT: normalise(one[None], network.spec)})[0] for one in pixels]
    )  # fmt: skip
    expected = network.torch_features(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_session_runs_one_image_on_one_thread() -> None:
    network = tiny()
    session = open_session(network.graph, network.tensors)
    assert session.get_inputs()[0].shape == [1, 3, 24, 24]
    options = session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_several_threads_may_use_one_session() -> None:
    network = tiny()
    session = open_session(network.graph, network.tensors)
    inputs = [normalise(one[None], network.spec) for one in network.pixels(8)]
    alone = [session.run([OUTPUT], {INPUT: one})[0] for one in inputs]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda one: session.run([OUTPUT], {INPUT: one})[0], inputs * 20))
    np.testing.assert_array_equal(np.concatenate(together), np.concatenate(alone * 20))


def test_the_tensors_are_not_needed_afterwards() -> None:
    network = tiny()
    tensors = {name: array.copy() for name, array in network.tensors.items()}
    session, one = open_session(network.graph, tensors), normalise(network.pixels(1), network.spec)
    before = session.run([OUTPUT], {INPUT: one})[0]
    for array in tensors.values():
        array.fill(7)
    del tensors
    np.testing.assert_array_equal(session.run([OUTPUT], {INPUT: one})[0], before)


def test_other_weights_give_other_features_and_strides_do_not_matter() -> None:
    network = tiny()
    one, name = normalise(network.pixels(1), network.spec), "blocks.1.0.weight"
    changed = network.tensors | {name: 2 * network.tensors[name]}
    strided = network.tensors | {name: np.asfortranarray(network.tensors[name])}
    first, other, same = (
        open_session(network.graph, tensors).run([OUTPUT], {INPUT: one})[0]
        for tensors in (network.tensors, changed, strided)
    )
    assert not np.allclose(first, other)
    np.testing.assert_array_equal(first, same)


@pytest.mark.parametrize("graph", [b"", b"\x99" * 500, b"<!DOCTYPE html>", None], ids=str)
def test_a_damaged_graph(graph: bytes | None, capfd: pytest.CaptureFixture[str]) -> None:
    graph = tiny().graph[:2500] if graph is None else graph
    with pytest.raises(ArtefactError, match="the graph of the backbone cannot be loaded"):
        open_session(graph, tiny().tensors)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("array", [
    np.zeros((2, 3, 3, 3), np.float32), np.zeros((60, 3, 3, 3), np.float32), np.zeros((3, 6, 3, 3), np.float32),
    np.zeros((6, 3, 3, 3), np.float64), np.zeros((6, 3, 3, 3), np.int32),
], ids=lambda array: f"{array.shape} {array.dtype}")  # fmt: skip
def test_a_tensor_of_another_shape_or_type(array: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ArtefactError, match="cannot be loaded"):
        open_session(tiny().graph, tiny().tensors | {"stem.0.weight": array})
    assert capfd.readouterr() == ("", "")


def test_a_tensor_too_many() -> None:
    with pytest.raises(ArtefactError, match="fc2"):
        open_session(tiny().graph, tiny().tensors | {"fc2": np.zeros(3, np.float32)})


@pytest.mark.parametrize("name", ["stem.0.weight", "stem.1.bias", "blocks.1.1.running_var"])
def test_a_tensor_too_few(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Even if the working directory holds files whose names are in the graph."""
    for file in ("weights", name, "tensors"):
        (tmp_path / file).write_bytes(bytes(100_000))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtefactError, match="cannot be loaded"):
        open_session(tiny().graph, {key: array for key, array in tiny().tensors.items() if key != name})
    assert capfd.readouterr() == ("", "")

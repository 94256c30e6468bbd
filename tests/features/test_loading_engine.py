"""Everything happens in the thread that loads, in order; an error of loading is everybody's."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from cnn_tl.features.loading_engine import LoadingEngine


class Recorder:
    """Stands for an engine; remembers in which thread its batches were started."""

    is_asynchronous = True

    def __init__(self) -> None:
        self.threads = [threading.current_thread()]

    def start(self, pixels: np.ndarray) -> np.ndarray:
        self.threads.append(threading.current_thread())
        return pixels.reshape(len(pixels), -1)[:, :1].astype(np.float32)

    def finish(self, pending: np.ndarray) -> np.ndarray:
        return pending


def test_batches_run_where_the_engine_was_loaded() -> None:
    made: list[Recorder] = []

    def load() -> Recorder:
        made.append(Recorder())
        return made[0]

    engine = LoadingEngine(load)  # type: ignore[arg-type]
    assert engine.is_asynchronous
    pending = [engine.start(np.full((2, 3, 3, 3), number, np.uint8)) for number in range(3)]
    assert [engine.finish(one).tolist() for one in pending] == [[[number], [number]] for number in range(3)]
    assert engine.outputs(np.zeros((1, 3, 3, 3), np.uint8)).tolist() == [[0]]
    [thread] = set(made[0].threads)
    assert thread is not threading.current_thread()
    assert len(made[0].threads) == 5


def test_an_error_of_loading_is_raised_by_each_use() -> None:
    def load() -> Recorder:
        raise OSError("gone")

    engine = LoadingEngine(load)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            engine.outputs(np.zeros((1, 3, 3, 3), np.uint8))
    with pytest.raises(OSError, match="gone"):
        _ = engine.is_asynchronous


def test_an_error_of_a_batch_is_only_its_own() -> None:
    engine = LoadingEngine(Recorder)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        engine.outputs(None)  # type: ignore[arg-type]
    assert engine.outputs(np.ones((1, 3, 3, 3), np.uint8)).tolist() == [[1]]

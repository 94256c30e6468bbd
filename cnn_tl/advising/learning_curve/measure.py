"""Fits a head to each subset of each draw, and judges the images that the draw holds out.

Shapes: N images judged, S sizes, D features, K classes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn_tl.advising.learning_curve.subsets import Draw
from cnn_tl.core.cpu import free_memory, usable
from cnn_tl.core.errors import Stopped
from cnn_tl.heads import HEADS, Problem
from cnn_tl.heads.problem import Features
from cnn_tl.recipe.resolved import AutoHead

Indices = NDArray[np.int64]
Task = TypeVar("Task")
Result = TypeVar("Result")

BYTES = 45
"""Memory of a fit, at most, for each image times features and classes."""


@dataclass(frozen=True)
class Measured:
    """What was right after fits to so many images.

    Attributes:
        sizes: images fitted, the mean over the draws, [S], ascending.
        images: those that were judged, by any draw, [N].
        draw: which draw judged them, [N].
        predicted: the answers, [N, S].
        labels: [N].
    """

    sizes: NDArray[np.float64]
    images: Indices
    draw: Indices
    predicted: Indices
    labels: Indices

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each answer is right, [N, S]."""
        made: NDArray[np.bool_] = self.predicted == self.labels[:, None]
        return made


def measure(
    features_ND: Features,
    labels_N: Indices,
    groups_N: Indices | None,
    draws: Sequence[Draw],
    sizes: Sequence[int],
    fit: Callable[[Problem], Callable[[Features], NDArray[np.floating]]],
    num_classes: int,
    seed: int,
    advance: Callable[[int], None] = lambda images: None,
) -> Measured:
    """Fit a head for each draw and size, by as many threads as cores may be used and memory allows.

    Args:
        fit: returns the function from features to logits.
        advance: called after each fit with the number of images, in the thread that called this.

    Raises:
        DivergedError: a head is not finite.
    """
    stopped = threading.Event()

    def check() -> None:
        if stopped.is_set():
            raise Stopped("stopped")

    def answers(task: tuple[Draw, int]) -> tuple[int, Indices]:
        draw, size = task
        check()
        rows = draw.subset(size)
        problem = Problem(
            views=[features_ND[rows]],
            labels=labels_N[rows],
            num_classes=num_classes,
            class_weights=np.ones(num_classes),
            seed=seed,
            check=check,
            groups=None if groups_N is None else groups_N[rows],
            hold_out=False,
        )
        return len(rows), np.argmax(fit(problem)(features_ND[draw.judged]), 1)

    tasks = [(draw, size) for size in reversed(sizes) for draw in draws]  # the longest first
    at_once, found = _fits_at_once(max(sizes), features_ND.shape[1] + num_classes), []
    with closing(_in_threads(answers, tasks, at_once, stopped)) as results:
        for one in results:
            found.append(one)
            advance(one[0])
    images = np.concatenate([draw.judged for draw in draws])
    by_size = [found[start : start + len(draws)] for start in range(0, len(found), len(draws))][::-1]
    return Measured(
        sizes=np.array([np.mean([fitted for fitted, _ in own]) for own in by_size]),
        images=images,
        draw=np.repeat(np.arange(len(draws)), [len(draw.judged) for draw in draws]),
        predicted=np.stack([np.concatenate([answered for _, answered in own]) for own in by_size], 1),
        labels=labels_N[images],
    )


def _in_threads(
    function: Callable[[Task], Result], tasks: Sequence[Task], at_once: int, stopped: threading.Event
) -> Generator[Result, None, None]:
    """Yield the results in order; an error, or closing this, sets `stopped` and begins no other task."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(at_once, thread_name_prefix="curve") as threads:
        futures = [threads.submit(function, task) for task in tasks]
        try:
            yield from (future.result() for future in futures)
        except BaseException:
            stopped.set()
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def _fits_at_once(images: int, numbers: int) -> int:
    """Return how many fits may run at once: one on each core, as far as half of the free memory goes.

    Args:
        images: of the largest fit. numbers: features and classes of an image.
    """
    memory = free_memory()
    return usable() if memory is None else max(1, min(usable(), memory // 2 // (BYTES * images * numbers)))


def fit_auto(problem: Problem) -> Callable[[Features], NDArray[np.floating]]:
    """Fit as `--head auto` does."""
    return HEADS["auto"](problem, AutoHead(kind="auto", class_weights="none")).logits

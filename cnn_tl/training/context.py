"""The immutable context of a run: recipe, folder, processes, observer, stop request and trackers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeGuard

from typing_extensions import TypeVar

from cnn_tl.cache.location import default_root
from cnn_tl.cache.store import FeatureCache
from cnn_tl.core.cpu import default_workers
from cnn_tl.core.processes import ALONE, World
from cnn_tl.core.progress import Observer
from cnn_tl.core.signals import StopRequest
from cnn_tl.data.manifest import Manifest
from cnn_tl.data.views.augment import Augmentation
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.recipe.resolved import FinetuneRecipe, LoopRecipe
from cnn_tl.tracking.tracker import Tracking
from cnn_tl.training.run_folder import RunFolder

GB = 10**9

R = TypeVar("R", bound=ResolvedRecipe, covariant=True, default=ResolvedRecipe)

TwinFinder = Callable[[Manifest, Observer, ResolvedRecipe], Mapping[str, str]]
"""Finds copies that are not equal files: (all images before the validation split is chosen, observer, recipe of the
run) -> image -> name of its group. Images without a twin may be missing. The same images must always give the same
groups."""


@dataclass(frozen=True)
class Run(Generic[R]):
    """One training run, with the recipe of its mode. Mode lp-ft derives a second one, for its stage in mode freeze.

    Attributes:
        recipe: the resolved recipe.
        folder: the run folder.
        observer: receives progress.
        world: the processes of the run.
        stop: set by SIGINT and SIGTERM.
        tracking: the trackers, opened before the mode runs; may be empty.
        is_resumed: the run continues from the state in its folder.
        writes: False for a plan or a range test, which must not write anything.
    """

    recipe: R
    folder: RunFolder
    observer: Observer = field(default_factory=Observer)
    world: World = ALONE
    stop: StopRequest = field(default_factory=StopRequest)
    tracking: Tracking = field(default_factory=Tracking)
    is_resumed: bool = False
    writes: bool = True

    @property
    def workers(self) -> int:
        """Number of threads or processes that read images; 0: the main thread reads them."""
        wanted = self.recipe.run.workers
        return max(1, default_workers() // self.world.local_size) if wanted is None else wanted

    @property
    def parallel_reads(self) -> int:
        """Number of images that are read at the same time."""
        return min(max(1, self.workers), default_workers())

    @property
    def batch_size(self: Run[LoopRecipe]) -> int:
        """Number of images in a step of the training loop, over all processes."""
        return self.recipe.train.batch_size

    @property
    def augmentation(self) -> Augmentation | None:
        """How training images are augmented; None: they are not."""
        chosen = self.recipe.augment
        return None if chosen is None else Augmentation(**chosen.model_dump(exclude={"mixup", "cutmix"}))

    @property
    def fits_head(self) -> bool:
        """Whether the mode fits a head on frozen features."""
        return not isinstance(self.recipe, FinetuneRecipe)

    def log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write all rows of metrics so far to the run folder and the trackers.

        Raises:
            ResourceError: the disk is full or not writable.
        """
        if self.world.is_first:
            self.folder.write_metrics(rows)
            self.tracking.rows(rows)

    def raise_if_stopped(self) -> None:
        """Raise `Stopped`, with the command that resumes the run, if a signal has come."""
        self.stop.raise_if_asked(f"stopped; go on with: {self.folder.resume_command}")


def has_loop(run: Run) -> TypeGuard[Run[LoopRecipe]]:
    """Return whether the run has a training loop."""
    return isinstance(run.recipe, LoopRecipe)


def open_cache(
    run: Run, *, holds: Literal["feature", "image"] = "feature", note: Callable[[str], None] | None = None
) -> FeatureCache:
    """Open the machine's cache, or if that cannot be used, one in the run folder that is deleted at the end.

    Args:
        holds: what is cached, for messages and limits.
        note: receives the reasons why rows cannot be stored; by default the observer.
    """
    features = run.recipe.features
    options: dict[str, Any] = {
        "holds": holds, "budget_bytes": budget_bytes(run.recipe), "read_only": not run.writes,
        "warn": run.observer.warn, "note": note or run.observer.note,
    }  # fmt: skip
    private = FeatureCache(run.folder.features, **options)
    if not features.cache or (features.views == "fresh" and holds == "feature"):
        return private
    shared = FeatureCache(default_root(), **options)
    if reason := shared.why_not(1):
        run.observer.note(f"{holds}s are kept for this run only: {reason}")
        return private
    return shared


def budget_bytes(recipe: ResolvedRecipe) -> int:
    """Return the maximum size of the cache in bytes."""
    return int(recipe.features.budget_gb * GB)

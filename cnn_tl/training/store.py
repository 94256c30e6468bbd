"""Where a run keeps what the frozen part of its network gives, and the images that it has decoded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from cnn_tl.cache.location import default_root
from cnn_tl.cache.store import FeatureCache
from cnn_tl.core.progress import Observer
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.training.run_folder import RunFolder

GB = 10**9


def open_cache(
    recipe: ResolvedRecipe,
    run: RunFolder,
    observer: Observer,
    *,
    holds: Literal["feature", "image"] = "feature",
    read_only: bool = False,
    note: Callable[[str], None] | None = None,
) -> FeatureCache:
    """Open the machine's cache; where it may or can not be used, one inside the run folder, which goes at the end.

    Args:
        read_only: leave no trace.
        note: is told of rows that cannot be kept, in place of the observer.
    """
    settings = recipe.features
    options: dict[str, Any] = {"holds": holds, "budget_bytes": budget_bytes(recipe), "read_only": read_only}
    options |= {"warn": observer.warn, "note": note or observer.note}
    private = FeatureCache(run.features, **options)
    if not settings.cache or (settings.views == "fresh" and holds == "feature"):
        return private
    shared = FeatureCache(default_root(), **options)
    if reason := shared.why_not(1):
        observer.note(f"{holds}s are kept for this run only: {reason}")
        return private
    return shared


def budget_bytes(recipe: ResolvedRecipe) -> int:
    """Return the most that the cache may hold."""
    return int(recipe.features.budget_gb * GB)

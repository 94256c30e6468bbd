"""Where a run keeps what the frozen part of its network gives."""

from __future__ import annotations

from typing import Any

from cnn_tl.cache.location import default_root
from cnn_tl.cache.store import FeatureCache
from cnn_tl.recipe import Recipe
from cnn_tl.training.session import Session

GB = 10**9


def open_cache(session: Session, *, read_only: bool = False) -> FeatureCache:
    """Open the machine's cache; where it may or can not be used, one inside the run folder, which goes at the end.

    Args:
        read_only: leave no trace.
    """
    settings, observer = session.recipe.features, session.observer
    options: dict[str, Any] = {"read_only": read_only, "warn": observer.warn, "note": observer.note}
    budget = budget_bytes(session.recipe)
    private = FeatureCache(session.run.features, budget_bytes=budget, **options)
    if not settings.cache or settings.views == "fresh":
        return private
    shared = FeatureCache(default_root(), budget_bytes=budget, **options)
    if reason := shared.why_not(1):
        observer.note(f"features are kept for this run only: {reason}")
        return private
    return shared


def budget_bytes(recipe: Recipe) -> int:
    """Return the most that the cache may hold."""
    return int(recipe.features.budget_gb * GB)

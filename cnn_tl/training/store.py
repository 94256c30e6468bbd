"""Where a run keeps what the frozen part of its network gives."""

from __future__ import annotations

from cnn_tl.cache.location import default_root
from cnn_tl.cache.store import FeatureCache
from cnn_tl.training.session import Session

GB = 10**9


def open_cache(session: Session) -> FeatureCache:
    """Open the machine's cache; where it may or can not be used, one inside the run folder, which goes at the end."""
    settings, observer = session.recipe.features, session.observer
    budget = int(settings.budget_gb * GB)
    private = FeatureCache(session.run.features, budget_bytes=budget, warn=observer.warn, note=observer.note)
    if not settings.cache or settings.views == "fresh":
        return private
    shared = FeatureCache(default_root(), budget_bytes=budget, warn=observer.warn, note=observer.note)
    if reason := shared.why_not(1):
        observer.note(f"features are kept for this run only: {reason}")
        return private
    return shared

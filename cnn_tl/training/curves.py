"""The learning curves of a run, drawn when its loop ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cnn_tl.core.errors import printable
from cnn_tl.recipe.messages import policy_shown
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.context import Session, has_loop

if TYPE_CHECKING:
    from cnn_tl.plots.curves import Rows, Story


@contextlib.contextmanager
def drawn_in_the_end(session: Session) -> Iterator[None]:
    """Draw the learning curves when the body has ended, also where the loop was stopped or has diverged."""
    try:
        yield
    finally:
        try:
            rows = [row for row in session.run.read_metrics() if "epoch" in row]
            if rows and session.world.is_first and has_loop(session):
                from cnn_tl.plots.curves import plot_curves

                plot_curves(session.run.curves, rows, story(session, rows))
        except Exception as error:  # noqa: BLE001 - a plot is not worth a run
            session.observer.warn(f"the learning curves are not drawn: {error}")


def story(session: Session[LoopRecipe], rows: Rows) -> Story:
    """Return what the plot of a run shows beside its rows."""
    from cnn_tl.plots.curves import Story

    recipe, model = session.recipe, session.recipe.model
    phases = [(number * model.unfreeze_every + 1, policy_shown(p)) for number, p in enumerate(model.policies)]
    last = int(rows[-1]["epoch"])
    return Story(
        title=f"{printable(session.run.path)}: {recipe.mode}, {session.card.name}",
        images=len(session.manifest.of("val")),
        kept=_kept(session, last),
        head_counts=recipe.mode == "finetune",
        phases=[phase for phase in phases if phase[0] <= last] if model.unfreeze else (),
    )


def _kept(session: Session, last: int) -> int | None:
    """Return the epoch whose weights the model has, 0 for the fitted head; None while the loop is not over."""
    facts = session.facts
    if facts.get("verdict", {}).get("kept") == "frozen":
        return 0
    if "best_epoch" not in facts or (session.recipe.mode in ("lp-ft", "auto") and "verdict" not in facts):
        return None
    return last if facts["best_epoch"] is None else int(facts["best_epoch"])

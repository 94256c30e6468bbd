"""Draw the learning curves of a run when its loop ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cnn_tl.core.background import Background
from cnn_tl.core.errors import printable
from cnn_tl.recipe.messages import policy_shown
from cnn_tl.recipe.resolved import LoopRecipe
from cnn_tl.training.context import Run, has_loop
from cnn_tl.training.dataset import Dataset
from cnn_tl.training.lazy_network import LazyNetwork
from cnn_tl.training.outcome import Outcome

if TYPE_CHECKING:
    from cnn_tl.plots.curves import CurvesContext, Rows


def draw_curves(run: Run, dataset: Dataset, network: LazyNetwork, outcome: Outcome | None) -> None:
    """Draw the learning curves, even if the loop was stopped or has diverged: `outcome` is then None."""
    try:
        _draw(run, dataset, network, outcome)
    except Exception as error:  # noqa: BLE001 - a failed plot must not fail the run
        run.observer.warn(f"the learning curves are not drawn: {error}")


@contextmanager
def drawing_curves(run: Run, dataset: Dataset, network: LazyNetwork, outcome: Outcome) -> Iterator[None]:
    """Draw the learning curves of a finished loop while the block runs; a failure is a warning at its end."""
    drawing = Background(lambda: _draw(run, dataset, network, outcome), "draw curves")
    try:
        yield
    finally:
        try:
            drawing.result()
        except Exception as error:  # noqa: BLE001 - a failed plot must not fail the run
            run.observer.warn(f"the learning curves are not drawn: {error}")


def _draw(run: Run, dataset: Dataset, network: LazyNetwork, outcome: Outcome | None) -> None:
    if not (run.world.is_first and has_loop(run)):
        return
    rows = [row for row in run.folder.read_metrics() if "epoch" in row]
    if rows:
        from cnn_tl.plots.curves import plot_curves

        plot_curves(run.folder.curves, rows, _context(run, dataset, network, outcome, rows))


def _context(
    run: Run[LoopRecipe], dataset: Dataset, network: LazyNetwork, outcome: Outcome | None, rows: Rows
) -> CurvesContext:
    """Return the title, sizes and phases that the plot needs besides the rows."""
    from cnn_tl.plots.curves import CurvesContext

    recipe, model = run.recipe, run.recipe.model
    phases = [(number * model.unfreeze_every + 1, policy_shown(p)) for number, p in enumerate(model.policies)]
    last = int(rows[-1]["epoch"])
    return CurvesContext(
        title=f"{printable(run.folder.path)}: {recipe.mode}, {network.info.name}",
        images=len(dataset.manifest.of("val")),
        kept=None if outcome is None else outcome.facts.kept_epoch(last),
        head_counts=recipe.mode == "finetune",
        phases=[phase for phase in phases if phase[0] <= last] if model.unfreeze else (),
    )

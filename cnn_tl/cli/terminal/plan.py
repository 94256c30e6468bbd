"""The plan of a run as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnn_tl.cli.terminal import console
from cnn_tl.cli.terminal.accuracy import MANY_CLASSES
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted, duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from cnn_tl.core.progress import FeaturePlan, Plan


def plan_table(plan: Plan) -> RenderableType:
    """Return the plan as two tables: images per class, and settings."""
    from rich.console import Group

    totals = {split: sum(counts[split] for counts in plan.counts.values()) for split in ("train", "val", "test")}
    splits = [split for split, total in totals.items() if total]
    rows = [[printable(name), *(f"{counts[split]:,}" for split in splits)] for name, counts in plan.counts.items()]
    if len(rows) > MANY_CLASSES:
        rows[MANY_CLASSES:] = [[f"and {len(rows) - MANY_CLASSES:,} more", *("" for _ in splits)]]
    rows.append(["total", *(f"{totals[split]:,}" for split in splits)])
    images = console.table([counted(len(plan.counts), "class"), *(f"{split}>" for split in splits)], rows)
    height, width = plan.image_size
    share = 100 * plan.trainable / plan.total
    whole = round(plan.seconds)
    facts = console.table(
        ["plan", ""],
        [
            ["mode", plan.mode],
            ["data", f"{plan.data} ({plan.layout})"],
            ["backbone", f"{plan.backbone}, {height} x {width} px"],
            ["weights", plan.weights],
            ["parameters", f"{plan.trainable:,} of {plan.total:,} train ({share:.3g}%)"],
            ["device", f"{plan.device}, {plan.precision}"],
            ["schedule", plan.schedule],
            *([["phases", plan.phases]] if plan.phases else []),
            *([["features", _features(plan.features, plan.mode)]] if plan.features else []),
            *([["images", _images(plan.images)]] if plan.mode != "freeze" else []),
            *([["views", plan.sources]] if plan.sources else []),
            ["expected", f"about {duration(whole)}" if whole else "under 1 s"],
            ["output", plan.output],
        ],
    )
    return Group(images, facts)


def _features(plan: FeaturePlan, mode: str) -> str:
    from rich.filesize import decimal

    if not plan.computed:  # a loop decodes images for its own views
        nothing = "; no image is decoded" if mode == "freeze" else ""
        return f"all {plan.from_cache:,} come from the cache{nothing}"
    found = f"{plan.from_cache:,} come from the cache, " if plan.from_cache else ""
    one = plan.computed == 1
    computed = f"{found}{plan.computed:,} {'is' if one else 'are'} computed"
    if not plan.bytes:
        return f"{computed}, for this run only"
    return f"{computed} and {'takes' if one else 'take'} {decimal(plan.bytes)} in the cache"


def _images(plan: FeaturePlan | None) -> str:
    from rich.filesize import decimal

    if plan is None:
        return "decoded again in each epoch; none is cached"
    if not plan.computed:
        return f"all {plan.from_cache:,} come from the cache; none is decoded"
    found = f"{plan.from_cache:,} come from the cache, " if plan.from_cache else ""
    return f"{found}{plan.computed:,} are decoded once and take about {decimal(plan.bytes)} in the cache"

"""What evaluate prints about not answering: errors by the share answered, promises, sets, and foreign images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cnn_tl.cli.terminal import console
from cnn_tl.core.formatting import counted, percent

if TYPE_CHECKING:
    from cnn_tl.metrics.selective import Abstention


def show_abstention(found: Abstention) -> None:
    """Print the error by the share of images answered, and what became of promises."""
    from cnn_tl.reporting.abstention_rows import abstention_rows

    console.show(console.table(["answered>", "wrong among them>", "probability>", ""], list(_risk(found))))
    console.show(console.table(["when not to answer", ">", ""], list(abstention_rows(found)), dense=True))


def _risk(found: Abstention) -> Iterator[list[str]]:
    for row, before in zip(found.risk, (None, *found.risk), strict=False):
        if before is not None and before.images == row.images:
            continue  # of few images
        text = "all images" if row.coverage == 1 else f"the {row.images:,} most confident"
        yield [percent(row.coverage, 0), percent(row.error), f"from {percent(row.probability)}", text]
    check = found.promise
    if check is not None and check.least is not None and check.error is not None:
        text = f"--max-error: {counted(check.answered, 'image')}"
        yield [percent(check.coverage), percent(check.error), f"from {percent(check.least)}", text]

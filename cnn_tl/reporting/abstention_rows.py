"""What became of verdicts on labelled images, in words: rows for the terminal and for the page of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator

from cnn_tl.core.formatting import percent, share_as_typed
from cnn_tl.metrics.selective import Abstention, PromiseCheck, SetCheck, UnknownCheck
from cnn_tl.pages.content import Table

Row = tuple[str, str, str]
"""A name, its value, and a remark."""


def abstention_table(found: Abstention) -> Table:
    """Return the table of the page."""
    return Table("When not to answer", tuple(abstention_rows(found)))


def abstention_rows(found: Abstention) -> Iterator[Row]:
    """Yield what not answering gains, and what became of promises."""
    yield "AURC", f"{found.aurc:.4f}", f"mean error over all shares; {found.excess_aurc:.4f} above the best order"
    if found.promise is not None:
        yield _promise(found.promise)
    if found.sets is not None:
        yield from _sets(found.sets)
    if found.called_unknown is not None:
        yield "called unknown", percent(found.called_unknown), "of these images, which show known classes"
    if found.unknown is not None:
        yield from _unknown(found.unknown)


def _promise(check: PromiseCheck) -> Row:
    if check.error is None or check.interval is None:
        return "wrong if answered", "-", check.reason or "no image is answered"
    low, high = check.interval
    promised = f"promised: at most {share_as_typed(check.max_error)}"
    wrong = f"{check.wrong:,} of {check.answered:,} wrong, 95% interval {percent(low)} - {percent(high)}"
    return "wrong if answered", percent(check.error), f"{promised}; {wrong}"


def _sets(check: SetCheck) -> Iterator[Row]:
    low, high = check.interval
    promised = f"promised: {percent(check.coverage, 0)}; 95% interval {percent(low)} - {percent(high)}"
    yield "set holds the class", percent(check.held), promised
    yield "classes in a set", f"{check.mean_size:.2f}", f"{percent(check.single)} of the sets have one class"


def _unknown(check: UnknownCheck) -> Iterator[Row]:
    lost = f", {check.unreadable:,} could not be read" if check.unreadable else ""
    yield "unknown images", f"{check.images:,}", f"{check.folder}{lost}"
    if check.called_unknown is not None:
        yield "called unknown", percent(check.called_unknown), "of these"
    yield "answered", percent(check.answered), "of these: the fewer, the better"
    meaning = "how well it tells them apart; 0.5 is chance"
    if check.auroc_of_distance is not None:
        yield "AUROC, distance", f"{check.auroc_of_distance:.3f}", meaning
        meaning = "the same, by the probability of the answer"
    yield "AUROC, probability", f"{check.auroc_of_probability:.3f}", meaning
    if check.auroc_of_both is not None:
        yield "AUROC, both", f"{check.auroc_of_both:.3f}", "the same, by the mean of both ranks"

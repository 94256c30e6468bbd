"""What evaluate prints about not answering: errors by the share answered, promises, sets, and foreign images."""

from __future__ import annotations

from collections.abc import Iterator

from cnn_tl.cli.terminal import console
from cnn_tl.core.formatting import counted, percent, share_as_typed
from cnn_tl.metrics.selective import Abstention, PromiseCheck, SetCheck, UnknownCheck


def show_abstention(found: Abstention) -> None:
    """Print the error by the share of images answered, and what became of promises."""
    console.show(console.table(["answered>", "wrong among them>", "probability>", ""], list(_risk(found))))
    console.show(console.table(["when not to answer", ">", ""], list(_figures(found)), dense=True))


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


def _figures(found: Abstention) -> Iterator[list[str]]:
    yield ["AURC", f"{found.aurc:.4f}", f"mean error over all shares; {found.excess_aurc:.4f} above the best order"]
    if found.promise is not None:
        yield _promise(found.promise)
    if found.sets is not None:
        yield from _sets(found.sets)
    if found.called_unknown is not None:
        yield ["called unknown", percent(found.called_unknown), "of these images, which show known classes"]
    if found.unknown is not None:
        yield from _unknown(found.unknown)


def _promise(check: PromiseCheck) -> list[str]:
    if check.error is None or check.interval is None:
        return ["wrong if answered", "-", check.reason or "no image is answered"]
    low, high = check.interval
    promised = f"promised: at most {share_as_typed(check.max_error)}"
    wrong = f"{check.wrong:,} of {check.answered:,} wrong, 95% interval {percent(low)} - {percent(high)}"
    return ["wrong if answered", percent(check.error), f"{promised}; {wrong}"]


def _sets(check: SetCheck) -> Iterator[list[str]]:
    low, high = check.interval
    promised = f"promised: {percent(check.coverage, 0)}; 95% interval {percent(low)} - {percent(high)}"
    yield ["set holds the class", percent(check.held), promised]
    yield ["classes in a set", f"{check.mean_size:.2f}", f"{percent(check.single)} of the sets have one class"]


def _unknown(check: UnknownCheck) -> Iterator[list[str]]:
    lost = f", {check.unreadable:,} could not be read" if check.unreadable else ""
    yield ["unknown images", f"{check.images:,}", f"{check.folder}{lost}"]
    if check.called_unknown is not None:
        yield ["called unknown", percent(check.called_unknown), "of these"]
    yield ["answered", percent(check.answered), "of these: the fewer, the better"]
    if check.auroc_of_distance is not None:
        yield ["AUROC, distance", f"{check.auroc_of_distance:.3f}", "how well it tells them apart; 0.5 is chance"]
    yield ["AUROC, probability", f"{check.auroc_of_probability:.3f}", "the same, by the probability of the answer"]

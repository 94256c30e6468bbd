"""What train and evaluate print about accuracy: a table of classes, and a warning if a constant answer does as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import percent

MANY_CLASSES = 30
"""More classes are not all listed by default."""

FEW = 5
"""How many of the worst and of the best classes are listed then."""


def show_classes(
    columns: Sequence[str], classes: Mapping[str, tuple[int, int, *tuple[object, ...]]], where: str, *, every: bool
) -> None:
    """Print a table of classes: all of them, or where there are many the worst and the best.

    Args:
        columns: headers of the columns after that of the class.
        classes: class -> right answers, images, then cells of further columns.
        where: where the figures of all classes are, as the end of a sentence.
        every: print all classes, even if there are many.
    """

    def cells(name: str) -> list[object]:
        right, images, *others = classes[name]
        return [printable(name), f"{right} / {images}", *others]

    header = ["class", *columns]
    if every or len(classes) <= MANY_CLASSES:
        console.show(console.table(header, map(cells, classes)))
        return
    shares = {name: (right / images, images) for name, (right, images, *_) in classes.items() if images}
    worst = sorted(shares, key=lambda name: (shares[name][0], -shares[name][1]))[:FEW]
    best = sorted(shares.keys() - set(worst), key=lambda name: (-shares[name][0], -shares[name][1], name))[:FEW]
    best.sort(key=lambda name: (*shares[name], name))
    rows = [cells(name) for name in worst] + [["...", *("" for _ in columns)]] + [cells(name) for name in best]
    console.show(console.table(header, rows))
    console.say(f"{_which_are_shown([share for share, _ in shares.values()], len(classes))}; {where}")
    console.say()


def _which_are_shown(shares: Sequence[float], classes: int) -> str:
    """Say which classes are shown, without calling any of several equal ones the best."""
    highest = max(shares)
    if min(shares) == highest:
        return f"{2 * FEW} of {classes:,} classes are shown, which all have an accuracy of {percent(highest)}"
    equal = shares.count(highest)
    if equal > FEW:
        return f"the worst {FEW} of {classes:,} classes are shown, and {FEW} of the {equal:,} with {percent(highest)}"
    return f"the worst and the best {FEW} of {classes:,} classes are shown"


def warn_if_no_better(accuracy: float, interval: tuple[float, float], baseline: float, advice: Sequence[str]) -> None:
    """Warn where always giving the same answer may be as accurate.

    Args:
        accuracy: the share of right answers.
        interval: its 95% interval.
        baseline: the accuracy of the majority-class baseline.
        advice: what to try.
    """
    if interval[0] > baseline or baseline == 1:
        return
    console.warn(
        f"an accuracy of {percent(accuracy)} is not clearly better than the majority-class baseline of "
        f"{percent(baseline)}: its 95% interval begins at {percent(interval[0])}; {'; '.join(advice)}"
    )


def advice_after_training(mode: str, baseline: float) -> list[str]:
    """Return what to try after training that does not beat the baseline."""
    advice = ["check that each folder holds what its name says"]
    if mode == "freeze":
        advice.append("try --mode lp-ft, another --model, or a larger --image-size")
    else:
        advice.append("try --mode freeze, --lr auto, or more --epochs")
    if baseline > 0.5:
        section = "head" if mode == "freeze" else "train"
        advice.append(f"with classes this imbalanced, --set {section}.class_weights=balanced may help")
    return [*advice, "more images per class narrow the interval"]


ADVICE_AFTER_EVALUATION = (
    "check that each folder holds what its name says",
    "that these images resemble the training images (cnn-tl explain shows what the model looks at)",
    "and that there are enough of them",
)

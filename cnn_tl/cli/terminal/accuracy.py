"""What of a result needs a word: the classes that stand out where there are many, and an accuracy that is no news."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cnn_tl.cli.terminal import console
from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import percent

MANY_CLASSES = 30
"""More are not listed one by one unless that is asked for."""

FEW = 5
"""How many of the worst and of the best are listed then."""


def show_classes(
    columns: Sequence[str], classes: Mapping[str, tuple[int, int, *tuple[object, ...]]], where: str, *, every: bool
) -> None:
    """Print a table of classes: all of them, or the worst and the best.

    Args:
        columns: names of the columns beside that of the classes.
        classes: class -> right answers, images, then cells of further columns.
        where: where the figures of all classes are, as a sentence goes on after a comma.
        every: whether all are to be printed, however many they are.
    """

    def cells(name: str) -> list[object]:
        right, images, *others = classes[name]
        return [printable(name), f"{right} / {images}", *others]

    header = ["class", *columns]
    if every or len(classes) <= MANY_CLASSES:
        console.show(console.table(header, map(cells, classes)))
        return
    seen = {name: (right / images, images) for name, (right, images, *_) in classes.items() if images}
    worst = sorted(seen, key=lambda name: (seen[name][0], -seen[name][1]))[:FEW]
    best = sorted(seen.keys() - set(worst), key=lambda name: (-seen[name][0], -seen[name][1], name))[:FEW]
    best.sort(key=lambda name: (*seen[name], name))
    rows = [cells(name) for name in worst] + [["...", *("" for _ in columns)]] + [cells(name) for name in best]
    console.show(console.table(header, rows))
    console.say(f"the worst and the best {FEW} of {len(classes):,} classes are shown; {where}")
    console.say()


def warn_if_no_better(accuracy: float, interval: tuple[float, float], baseline: float, advice: Sequence[str]) -> None:
    """Warn where an accuracy may be no better than that of always giving one answer.

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
    """Return what to try after training that was of no use."""
    advice = ["see whether each folder holds what its name says"]
    if mode == "freeze":
        advice.append("try --mode lp-ft, another --model, or a larger --image-size")
    else:
        advice.append("try --mode freeze, --lr auto, or more --epochs")
    if baseline > 0.5:
        section = "head" if mode == "freeze" else "train"
        advice.append(f"with classes this uneven --set {section}.class_weights=balanced may help")
    return [*advice, "more images of each class make the interval narrower"]


ADVICE_AFTER_EVALUATION = (
    "see whether each folder holds what its name says",
    "whether these images look like those of training (cnn-tl explain shows what the model looks at)",
    "and whether there are enough of them",
)

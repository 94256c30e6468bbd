"""The findings in words: a sentence with the count, an example, and what to do."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import numpy as np

from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import certainty, counted, percent
from cnn_tl.data.manifest import Manifest
from cnn_tl.doctor.collection import Collection
from cnn_tl.doctor.diagnosis import Screens
from cnn_tl.doctor.findings import Finding, by_harm
from cnn_tl.doctor.leaks import LeakedAccuracy, Share
from cnn_tl.doctor.twins import Twins

REVIEW = "look at them with cnn-tl review"


def findings_of(images: Collection, found: Screens, manifest: Manifest) -> tuple[Finding, ...]:
    """Return what was found, the most harmful kind first."""
    kinds = (_leaks, _conflicts, _labels, _shortcuts, _series, _twins, _outliers)
    return by_harm([*(finding for kind in kinds for finding in kind(images, found)), *_broken(manifest)])


def _broken(manifest: Manifest) -> Iterator[Finding]:
    if aside := manifest.set_aside:
        them = "it" if len(aside) == 1 else "them"
        yield Finding(
            "broken",
            len(aside),
            f"{counted(len(aside), 'image')} cannot be read, and train leaves {them} out",
            f"{printable(aside[0].path)}: {printable(aside[0].reason)}",
            f"repair or remove {them}",
        )


def _leaks(images: Collection, found: Screens) -> Iterator[Finding]:
    leaked = {split: indices for split, indices in found.leaks.leaked.items() if indices}
    between = found.leaks.test_in_val
    if not leaked:
        if between:
            yield _between(images, found, between)
        return
    count = sum(map(len, leaked.values()))
    if len(leaked) == 1:
        what = f"{counted(count, 'image')} of {next(iter(leaked))}"
    else:
        what = f"{count:,} images ({' and '.join(f'{len(indices):,} of {split}' for split, indices in leaked.items())})"
    first = next(iter(leaked.values()))[0]
    group = next(group for group in found.leaks.crossing if first in group)
    other = next(index for index in group if images.splits[index] == "train")
    accuracy = "".join(f"; {leaked_accuracy_text(one)}" for one in found.accuracies)
    yield Finding(
        "leaks",
        count,
        f"{what} {_has(count)} a twin in train, so the accuracy looks too good{accuracy}",
        _pair(images, first, other),
        "leave the twins in train out: data.exclude takes exclude.txt; or data.groups: twins keeps twins in one split",
    )


def _between(images: Collection, found: Screens, between: tuple[int, ...]) -> Finding:
    """Return the finding of test images with a twin in val, where none is in train."""
    group = next(group for group in found.leaks.crossing if between[0] in group)
    other = next(index for index in group if images.splits[index] == "val")
    count = len(between)
    return Finding(
        "leaks",
        count,
        f"{counted(count, 'image')} of test {_has(count)} a twin in val, by which a model is chosen",
        _pair(images, between[0], other),
        "leave the twins in val out; data.groups: twins does so",
    )


def leaked_accuracy_text(one: LeakedAccuracy) -> str:
    """Return such as "val: 98.0% of 50 right (...) on images with a twin in train, 91.3% of 70 (...) on the others"."""
    return f"{one.split}: {_share(one.leaked)} on images with a twin in train, {_share(one.clean)} on the others"


def _share(one: Share) -> str:
    if one.accuracy is None or one.interval is None:
        return "no image"
    low, high = map(percent, one.interval)
    return f"{percent(one.accuracy)} of {one.images:,} right (95% interval {low} - {high})"


def _conflicts(images: Collection, found: Screens) -> Iterator[Finding]:
    if groups := found.leaks.conflicting:
        labels = images.labels
        first = groups[0][0]
        other = next(index for index in groups[0] if labels[index] != labels[first])
        count = sum(map(len, groups))
        yield Finding(
            "conflicts",
            count,
            f"{counted(count, 'image')} in {counted(len(groups), 'group')} of twins with different classes: at most "
            "one label of each group can be right",
            _pair(images, first, other),
            REVIEW,
        )


def _labels(images: Collection, found: Screens) -> Iterator[Finding]:
    labels = found.labels
    count = int(labels.suspect.sum())
    if not count:
        return
    first = next(index for index in labels.order.tolist() if labels.suspect[index])
    given, suggested = (printable(images.classes[which[first]]) for which in (labels.given, labels.suggested))
    yield Finding(
        "labels",
        count,
        f"{counted(count, 'label')} of {len(images):,} {'looks' if count == 1 else 'look'} wrong: contradicted by fits "
        f"that are right on {percent(out_of_fold_accuracy(images, found), 0)} of images that they have not seen; the "
        "surest come first",
        f"{printable(images.files[first])} is labelled {given}, and looks like {suggested} "
        f"({certainty(float(labels.suggested_probability[first]))})",
        f"{REVIEW}; data.relabel takes what you decide",
    )


def _shortcuts(images: Collection, found: Screens) -> Iterator[Finding]:
    if not (surest := [one for one in found.shortcuts if one.found]):
        return
    groups = {(one.of, group) for one in surest for group in one.groups}
    classes, splits = (sum(of == kind for of, _ in groups) for kind in ("class", "split"))
    told = [counted(count, noun) for count, noun in ((classes, "class"), (splits, "split")) if count]
    cues = counted(len({one.attribute for one in surest}), "attribute")
    yield Finding(
        "shortcuts",
        len(surest),
        f"{' and '.join(told)} can be told by {cues} that should not tell {'it' if len(groups) == 1 else 'them'}",
        surest[0].sentence(out_of_fold_accuracy(images, found)),
        f"make the images of all {'classes' if classes else 'splits'} in the same way, or remove what tells them apart",
    )


def out_of_fold_accuracy(images: Collection, found: Screens) -> float:
    """Return the balanced accuracy of the features' out-of-fold answers."""
    labels, answers = images.labels, found.labels.probabilities.argmax(1)
    return float(np.mean([(answers[labels == label] == label).mean() for label in np.unique(labels)]))


def _series(images: Collection, found: Screens) -> Iterator[Finding]:
    if (series := found.series) is None:
        return
    pattern = f"data.groups={series.pattern}" if series.pattern else "data.groups=FILE, a CSV with image,group"
    yield Finding(
        "series",
        int((series.groups >= 0).sum()),
        series.sentence().removesuffix("."),
        " and ".join(map(printable, series.example)),
        f"keep each series in one split: --set {shlex.quote(pattern) if series.pattern else pattern}",
    )


def _twins(images: Collection, found: Screens) -> Iterator[Finding]:
    if within := found.leaks.within:
        groups, splits, labels = found.twins.groups, images.splits, images.labels
        extra = within[0]
        same = (
            index
            for index in range(len(images))
            if index != extra
            and (groups[index], splits[index], labels[index]) == (groups[extra], splits[extra], labels[extra])
        )
        yield Finding(
            "twins",
            len(within),
            f"{counted(len(within), 'further copy', 'further copies')} of images of the same class and split: they "
            "count several times",
            _pair(images, extra, next(same)),
            f"equal ones are in exclude.txt; look at the others with cnn-tl review{_torn(images)}",
        )


def sensitivity(twins: Twins) -> str:
    """Return how well twins are told from other images in this folder."""
    if not twins.calibrated:
        return (
            "near-duplicates were told by a fixed rule: there are too few images, or too many alike, to calibrate one"
        )
    found = sum(twins.recall.values()) / max(len(twins.recall), 1)
    precise = "" if twins.precision is None else f", with an estimated precision of {percent(twins.precision, 0)}"
    return f"of changed copies that doctor made of these images, it finds {percent(found, 0)}{precise}"


def _torn(images: Collection) -> str:
    """Return what else to do with copies in a folder that `train` splits by itself."""
    if "val" in images.splits:
        return ""
    return "; train splits val off at random, and data.groups: twins keeps copies on one side"


def _outliers(images: Collection, found: Screens) -> Iterator[Finding]:
    if outliers := found.outliers:
        count = len({one.index for one in outliers})
        first = outliers[0]
        yield Finding(
            "outliers",
            count,
            f"{counted(count, 'image')} {'is' if count == 1 else 'are'} unlike the others",
            f"{printable(images.files[first.index])} is {first.kind}",
            REVIEW,
        )


def _pair(images: Collection, first: int, second: int) -> str:
    return f"{printable(images.files[first])} and {printable(images.files[second])}"


def _has(count: int) -> str:
    return "has" if count == 1 else "have"

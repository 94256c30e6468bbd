"""Shortcuts: what should not tell the class or the split, but does, such as the file format of one class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted, percent
from cnn_tl.data.manifest import SPLITS
from cnn_tl.doctor.attributes import ALL, CLIPPED, Attribute, Column, attributes_of, codes_of, constant
from cnn_tl.doctor.collection import Collection
from cnn_tl.doctor.telling import Told, best_rule, told
from cnn_tl.doctor.tones import tones

FILE_BAR = 0.3, 0.1
"""An attribute of the file counts from this recall minus false alarms on, and from this lower end of its interval."""

CONTENT_BAR = 0.45, 0.3
"""Of what is also part of the content, such as colour, which may tell a class with reason."""

DRAWING_BAR = 0.97, 0.9
"""Of the same in drawings on a plain ground, where light, detail and file size say how much is drawn."""

_PLAIN = 0.4
"""A set is of drawings if in half of its images at most this share does not have the commonest tone."""

_FOLLOWS = (ALL, "file size", "bytes per pixel")


@dataclass(frozen=True)
class Shortcut:
    """What one attribute tells of the classes, or of the splits.

    Attributes:
        attribute: its name. content: whether it is part of what the images show.
        of: "class" or "split".
        accuracy, chance: of predicting it from this attribute alone, balanced over the groups, out of fold.
        group: the one that it tells best. recall, false_alarms: of telling that group from all others.
        sure: the lower end of the interval of recall minus false alarms.
        found: whether that is enough for a finding.
        groups: all groups for which it is.
        rule: the most telling rule in words.
    """

    attribute: str
    content: bool
    of: str
    accuracy: float
    chance: float
    group: str
    recall: float
    false_alarms: float
    sure: float
    found: bool
    groups: tuple[str, ...]
    rule: str

    def sentence(self, features_accuracy: float | None = None) -> str:
        """Return the finding in words.

        Args:
            features_accuracy: balanced, of the network's features on the same images, out of fold.
        """
        balanced = (1 + self.recall - self.false_alarms) / 2
        plural = self.attribute in (ALL, CLIPPED)
        name = f"{self.attribute}{'' if self.attribute == ALL else ' alone'} tell{'' if plural else 's'}"
        words = f"{name[0].upper()}{name[1:]} {self.of} {printable(self.group)} from the others: "
        words += f"{percent(balanced, 0)} balanced accuracy, where guessing gives 50%."
        if self.rule:
            words += f" {self.rule}"
        if len(self.groups) > 1:
            words += f" {counted(len(self.groups), self.of)} can be told like this."
        if self.of == "class" and features_accuracy is not None:
            words += (
                f" Over all classes it is right on {percent(self.accuracy, 0)} (guessing: {percent(self.chance, 0)};"
            )
            words += f" the network's features: {percent(features_accuracy, 0)})."
        return words + self._question()

    def _question(self) -> str:
        if self.of == "split":
            return " The splits are no samples of the same images: an accuracy on one says less about the other."
        if self.content:
            return " Is that what the network should look at, or how these images were taken?"
        return " A network can learn this instead of what the images show."

    def to_json(self) -> dict[str, Any]:
        """Return it for shortcuts.json."""
        return {
            **{"attribute": self.attribute, "of": self.of, "content": self.content, "found": self.found},
            **{"accuracy": self.accuracy, "chance": self.chance, "group": self.group, "groups": list(self.groups)},
            **{"recall": self.recall, "false_alarms": self.false_alarms, "sure": self.sure, "rule": self.rule},
        }


def find_shortcuts(collection: Collection, *, drawn: bool = False) -> list[Shortcut]:
    """Return what each attribute that varies tells of the classes and of the splits; findings first, surest first.

    Args:
        drawn: the validation split was drawn from train at random, so that only chance can tell the splits.
    """
    attributes = [one for one in attributes_of(collection) if not constant(one)]
    splits = np.array([SPLITS.index(split) for split in collection.splits], np.int64)
    drawings = float(np.median(tones(collection.thumbnails)[1])) <= _PLAIN
    content_bar = DRAWING_BAR if drawings else CONTENT_BAR
    found = shortcuts_among(attributes, collection.labels, collection.classes, "class", content_bar)
    if len(np.unique(splits)) > 1 and not drawn:
        found += shortcuts_among(attributes, splits, SPLITS, "split", FILE_BAR)
    return sorted(found, key=lambda one: (not one.found, one.content, -one.sure))


def shortcuts_among(
    attributes: Sequence[Attribute],
    groups: NDArray[np.int64],
    names: Sequence[str],
    of: str,
    content_bar: tuple[float, float],
) -> list[Shortcut]:
    """Return what each attribute tells of the groups [N]; nothing if there are no two of at least ten images.

    A finding is: recall minus false alarms for a group reaches `FILE_BAR` or, of what is part of the content,
    `content_bar`, and so does the lower end of its interval, which allows for the number of attributes and groups.
    Splits should differ in nothing, so for them `FILE_BAR` holds throughout. All attributes together, and the
    bytes, are left out if an attribute of the file is a finding by itself: they follow from it.
    """
    found = []
    codes = {column.name: codes_of(column)[0] for one in attributes for column in one.columns}
    for attribute in attributes:
        result = told(
            [codes[column.name] for column in attribute.columns], groups, len(names), comparisons=len(attributes)
        )
        if result is not None:
            bar = _bar(attribute, content_bar)
            found.append(_shortcut(attribute, result, groups, names, of, bar))
    single = any(one.found and not one.content and one.attribute != ALL for one in found)
    return [one for one in found if not (single and one.attribute in _FOLLOWS)]


def _bar(attribute: Attribute, content_bar: tuple[float, float]) -> tuple[float, float]:
    """Return what counts; clipping tells how photographs were exposed and edited, as a file's attribute does."""
    as_of_file = not attribute.content or (attribute.name == CLIPPED and content_bar == CONTENT_BAR)
    return FILE_BAR if as_of_file else content_bar


def _shortcut(
    attribute: Attribute,
    result: Told,
    groups: NDArray[np.int64],
    names: Sequence[str],
    of: str,
    bar: tuple[float, float],
) -> Shortcut:
    reached = np.flatnonzero((result.gain >= bar[0]) & (result.sure >= bar[1]))
    best = int(np.nanargmax(result.sure))
    if len(reached):
        best = int(reached[result.sure[reached].argmax()])
    return Shortcut(
        attribute=attribute.name,
        content=attribute.content,
        of=of,
        accuracy=result.accuracy,
        chance=result.chance,
        group=names[best],
        recall=float(result.recall[best]),
        false_alarms=float(result.false_alarms[best]),
        sure=float(result.sure[best]),
        found=len(reached) > 0,
        groups=tuple(names[index] for index in reached.tolist()),
        rule=rule_of(attribute.columns, groups == best, f"{of} {printable(names[best])}") if len(reached) else "",
    )


def rule_of(columns: Sequence[Column], inside: NDArray[np.bool_], name: str) -> str:
    """Return the sentence that best tells the images inside a group from the others; empty if there is none."""
    all_inside, all_others = int(inside.sum()), int((~inside).sum())
    best, sentence = 0.0, ""
    for column in columns:
        made = _word_rule(column, inside) if column.values.dtype.kind == "U" else _number_rule(column, inside)
        if made is None:
            continue
        words, ours, theirs = made
        gain = ours / max(1, all_inside) - theirs / max(1, all_others)
        if gain > best:
            best = gain
            start = f"All {all_inside:,}" if ours == all_inside else f"{ours:,} of {all_inside:,}"
            end = f"none of the {all_others:,} others" if not theirs else f"{theirs:,} of the {all_others:,} others"
            sentence = f"{start} images of {name} {words}, {end}."
    return sentence


def _word_rule(column: Column, inside: NDArray[np.bool_]) -> tuple[str, int, int] | None:
    """Return the words, how many images inside they hold for, and how many others."""
    values, inverse = np.unique(column.values, return_inverse=True)
    ours = np.bincount(inverse[inside], minlength=len(values))
    theirs = np.bincount(inverse[~inside], minlength=len(values))
    gains = ours / max(1, inside.sum()) - theirs / max(1, (~inside).sum())
    most, least = int(gains.argmax()), int(gains.argmin())
    at = most if gains[most] >= -gains[least] - 1e-9 else least
    value = f"{column.name} {printable(str(values[at]))}"
    if at == most:
        return f"have {value}", int(ours[at]), int(theirs[at])
    return f"do not have {value}", int(inside.sum() - ours[at]), int((~inside).sum() - theirs[at])


def _number_rule(column: Column, inside: NDArray[np.bool_]) -> tuple[str, int, int] | None:
    values = column.values.astype(np.float64)
    known = np.isfinite(values)
    missing = int((~known & inside).sum()), int((~known & ~inside).sum())
    made: list[tuple[str, int, int]] = []
    rule = best_rule(values, inside)
    if rule is not None:
        above, threshold, ours, theirs = rule
        unit = f" {column.unit}" if column.unit else ""
        made.append((f"have {column.name} {'above' if above else 'below'} {_figure(threshold)}{unit}", ours, theirs))
    if any(missing):
        present = int(inside.sum()) - missing[0], int((~inside).sum()) - missing[1]
        made += [(f"have {column.name}", *present), (f"do not have {column.name}", *missing)]
    sizes = max(1, int(inside.sum())), max(1, int((~inside).sum()))
    return max(made, key=lambda one: one[1] / sizes[0] - one[2] / sizes[1], default=None)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"

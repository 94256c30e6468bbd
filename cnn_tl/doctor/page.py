"""The page of a diagnosis: what to show of each finding, with its images."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isinf
from pathlib import Path

from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import certainty, counted, percent
from cnn_tl.core.text_encoding import native
from cnn_tl.doctor.commands import train_command
from cnn_tl.doctor.diagnosis import Diagnosis
from cnn_tl.doctor.findings import KINDS, REVIEWED, Finding
from cnn_tl.doctor.outliers import KINDS as OUTLIERS
from cnn_tl.doctor.summary import summary_of
from cnn_tl.doctor.wording import sensitivity
from cnn_tl.pages.doctor import DoctorPage, Group, Member, Row, Section
from cnn_tl.reporting import data_table, thumbnails

GROUPS, MEMBERS = 24, 6
"""Groups of a section, and images of a group, that are shown."""


def page_of(found: Diagnosis, output: Path) -> DoctorPage:
    """Return the page of a diagnosis; `output` is the folder that it is written to, beside the lists."""
    chosen = {one.kind: _SECTIONS[one.kind](found) for one in found.findings if one.kind in _SECTIONS}
    shown = [index for groups in chosen.values() for _, members in groups[:GROUPS] for index, _, _ in members]
    drawn = thumbnails.draw(
        {index: found.collection.root / native(found.collection.files[index]) for index in dict.fromkeys(shown)},
        sha256={index: found.collection.images[index].sha256 for index in shown},
    )
    sections = tuple(_section(found, one, chosen.get(one.kind, []), drawn.drawn) for one in found.findings)
    clean = [KINDS[kind].lower() for kind in KINDS if kind not in {one.kind for one in found.findings}]
    images, seen_by = found.collection, ", ".join(found.backbones)
    facts = data_table.data_facts(found.manifest)
    return DoctorPage(
        title=found.name,
        subtitle=f"{len(images):,} images of {counted(len(images.classes), 'class')}, seen by {seen_by}",
        verdict=_verdict(found),
        sections=sections,
        clean=(
            *((f"Nothing was found of: {', '.join(clean)}.",) if clean else ()),
            _sentence(f"twins: {sensitivity(found.screens.twins)}"),
        ),
        tables=(data_table.data_table(found.manifest, facts, None),),
        commands=_commands(found, output),
        notes=tuple(drawn.notes()),
        data=summary_of(found),
    )


Chosen = tuple[int, str, bool]
"""An image of a group: its index, a note, and whether it is the suspect."""

Groups = list[tuple[str, list[Chosen]]]


def _verdict(found: Diagnosis) -> tuple[str, ...]:
    if not found.findings:
        return ("Nothing was found that would harm a model.",)
    first, *rest = found.findings
    lines = [_sentence(first.text)]
    if rest:
        lines.append(f"Besides: {', '.join(f'{one.count:,} {one.kind}' for one in rest)}.")
    return (*lines, _sentence(f"To do first: {first.advice}"))


def _commands(found: Diagnosis, output: Path) -> tuple[str, ...]:
    if not any(one.kind in REVIEWED for one in found.findings):
        return ()
    train = " ".join(train_command(found.collection.root, output))
    return shlex.join(["cnn-tl", "review", printable(output)]), train


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:].removesuffix('.')}."


def _section(found: Diagnosis, one: Finding, groups: Groups, drawn: Mapping[int, bytes]) -> Section:
    images, labels = found.collection, found.collection.labels

    def member(chosen: Chosen) -> Member:
        index, note, suspect = chosen
        place = f"{images.splits[index]}, {images.classes[labels[index]]}"
        return Member(images.files[index], place, note, drawn.get(index), suspect)

    more = len(groups) - GROUPS
    return Section(
        id=one.kind,
        title=KINDS[one.kind],
        text=_sentence(one.text),
        advice=_sentence(one.advice),
        groups=tuple(Group(text, tuple(map(member, members))) for text, members in groups[:GROUPS]),
        more=f"{more:,} more are in the lists beside this page." if more > 0 else "",
        rows=_rows(found) if one.kind == "shortcuts" else (),
    )


def _of_groups(groups: Iterable[Sequence[int]], found: Diagnosis) -> Groups:
    """Return groups of twins, with the kind of their first pair and its score."""
    twins = found.screens.twins
    kinds: dict[int, tuple[str, float]] = {}
    for (first, _), kind, score in zip(twins.pairs.tolist(), twins.kinds, twins.scores.tolist(), strict=True):
        kinds.setdefault(int(twins.groups[first]), (kind, score))
    made: Groups = []
    for group in groups:
        kind, score = kinds.get(int(twins.groups[group[0]]), ("near", 0.0))
        made.append((f"{kind}, {certainty(score)}", [(index, "", False) for index in group[:MEMBERS]]))
    return made


def _leaks(found: Diagnosis) -> Groups:
    return _of_groups(found.screens.leaks.crossing, found)


def _conflicts(found: Diagnosis) -> Groups:
    return _of_groups(found.screens.leaks.conflicting, found)


def _twins(found: Diagnosis) -> Groups:
    groups = found.screens.twins.groups
    numbers = list(dict.fromkeys(int(groups[index]) for index in found.screens.leaks.within))
    members: dict[int, list[int]] = {number: [] for number in numbers}
    for index in range(len(groups)):
        if (number := int(groups[index])) in members:
            members[number].append(index)
    return _of_groups(members.values(), found)


def _labels(found: Diagnosis) -> Groups:
    labels, images = found.screens.labels, found.collection
    made: Groups = []
    for index in labels.order.tolist():
        if labels.suspect[index]:
            suggested = printable(images.classes[labels.suggested[index]])
            text = f"looks like {suggested}, {certainty(float(labels.suggested_probability[index]))}"
            near = [(other, "near it", False) for other in labels.nearest.get(index, ())[: MEMBERS - 1]]
            made.append((text, [(index, "", True), *near]))
    return made


def _outliers(found: Diagnosis) -> Groups:
    by_kind: dict[str, list[Chosen]] = {}
    for one in found.screens.outliers:
        by_kind.setdefault(one.kind, []).append((one.index, "" if isinf(one.score) else f"{one.score:.1f}", True))
    return [
        (f"{kind}: {counted(len(members), 'image')}. {OUTLIERS[kind]}", members[: 2 * MEMBERS])
        for kind, members in by_kind.items()
    ]


def _series(found: Diagnosis) -> Groups:
    series = found.screens.series
    assert series is not None
    members: dict[int, list[Chosen]] = {}
    for index, group in enumerate(series.groups.tolist()):
        if group >= 0:
            members.setdefault(group, []).append((index, "", False))
    return [(series.names[group], chosen[:MEMBERS]) for group, chosen in members.items()]


def _rows(found: Diagnosis) -> tuple[Row, ...]:
    """Return what tells classes or splits: recall minus false alarms, from 0 to 1, and the rule in words."""
    return tuple(
        Row(
            f"{one.attribute}: {one.of} {printable(one.group)}",
            max(0.0, one.recall - one.false_alarms),
            f"{percent(one.recall, 0)} found, {percent(one.false_alarms, 0)} false alarms",
            one.rule,
        )
        for one in found.screens.shortcuts
        if one.found
    )


_SECTIONS: dict[str, Callable[[Diagnosis], Groups]] = {
    "leaks": _leaks,
    "conflicts": _conflicts,
    "labels": _labels,
    "series": _series,
    "twins": _twins,
    "outliers": _outliers,
}
"""Kind -> function that returns the groups of images that its section shows."""

"""`learning-curve` from a data folder or a run to what is printed, saved and returned."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cnn_tl.advising.embedded import embedded
from cnn_tl.advising.learning_curve import wording
from cnn_tl.advising.learning_curve.curve import Curve, learn
from cnn_tl.core import files
from cnn_tl.core.errors import DataError, printable
from cnn_tl.core.progress import Observer
from cnn_tl.doctor.subject import Subject
from cnn_tl.doctor.twin_groups import find_twin_groups

GENERATOR = "cnn-tl learning-curve"


@dataclass(frozen=True)
class LearningCurve:
    """What more images would buy.

    Attributes:
        data: the folder, or the run. backbone: its name in timm.
        curve: everything measured and extrapolated.
        computed: features that the cache lacked.
        notes: remarks, such as that a run is fine-tuned and its backbone here is not.
        seconds: what took how long. saved: the file in the folder of the run, if there is one.
    """

    data: str
    backbone: str
    curve: Curve
    computed: int
    notes: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    saved: Path | None = None

    @cached_property
    def verdict(self) -> str:
        """What twice as many images would bring, in one sentence."""
        return wording.verdict(self.curve)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as plain JSON data."""
        curve = asdict(self.curve)
        gains = [
            one | {"certain": own.is_certain} for one, own in zip(curve.pop("gains"), self.curve.gains, strict=True)
        ]
        each = len(self.curve.classes)
        for one in (*curve["points"], curve["now"], *curve["outlooks"]):
            one["per_class"] = round(one["images"] / each, 1)
        return {
            "written_by": GENERATOR,
            "data": self.data,
            "backbone": self.backbone,
            "head": "auto",
            "verdict": self.verdict,
            "check_in_words": wording.check_line(self.curve),
            **curve,
            "per_class": gains,
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
        }


def learning_curve(subject: Subject, name: str, observer: Observer) -> LearningCurve:
    """Measure the learning curve of a data folder, or of the data of a run, and save it in the run's folder.

    Args:
        name: what the user called it.

    Raises:
        DataError: there are no class folders, or too few images, or images that can be read.
        DivergedError: the features, or a head, are not finite.
        ArtefactError, ResourceError: of the network, its weights, the run or the device.
    """
    began = time.monotonic()
    finder = find_twin_groups if subject.run is None else lambda *_: subject.groups
    found = embedded(subject.recipe, observer, find_twins=finder)
    embedded_at = time.monotonic()
    training = len(found.manifest.of("train"))
    if len(found.manifest.classes) < 2:
        raise DataError(f"{printable(name)} has one class; a learning curve needs two")
    curve = learn(
        found.features, found.labels, found.groups, found.manifest.classes, training, subject.recipe.seed, observer
    )
    seconds = {"features": round(embedded_at - began, 2), "fits": round(time.monotonic() - embedded_at, 2)}
    place = subject.run.learning_curve if subject.run is not None and subject.run.result.is_file() else None
    made = LearningCurve(name, found.backbone, curve, found.computed, tuple(_notes(subject)), seconds, place)
    if place is not None:
        files.write_json(place, made.to_dict())
    return made


def _notes(subject: Subject) -> list[str]:
    """Return what differs from the run, if it is one."""
    if subject.run is None:
        return []
    recipe = subject.run.own_recipe()
    if recipe.mode == "scratch":
        return ["the run was trained from scratch; this is the curve of the default backbone, pretrained and frozen"]
    if recipe.mode != "freeze":
        return [
            f"the run is of mode {recipe.mode}; this is the curve of its backbone as it was before, frozen, with heads "
            "fitted on top, as training again and again would take too long"
        ]
    if recipe.head.kind not in ("auto", "lbfgs+ridge") or recipe.head.class_weights != "none":
        return [f"the run has --head {recipe.head.kind}; here heads are fitted as --head auto does, unweighted"]
    return []

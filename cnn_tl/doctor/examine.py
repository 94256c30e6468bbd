"""Examines a folder: collects what there is to see, asks every screen, and puts the findings in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from cnn_tl.core.progress import Observer, Relay
from cnn_tl.data.data_warnings import HINT
from cnn_tl.doctor.collecting import Collected, collected
from cnn_tl.doctor.collection import Collection
from cnn_tl.doctor.diagnosis import Diagnosis, Screens
from cnn_tl.doctor.labels.wrong import wrong_labels_of
from cnn_tl.doctor.leaks import Leaks, find_leaks
from cnn_tl.doctor.outliers import find_outliers
from cnn_tl.doctor.series import find_series
from cnn_tl.doctor.shortcuts import find_shortcuts
from cnn_tl.doctor.subject import Subject, accuracies
from cnn_tl.doctor.twins import find_twins
from cnn_tl.doctor.wording import findings_of

Result = TypeVar("Result")


@contextmanager
def examined(subject: Subject, name: str, observer: Observer) -> Iterator[Diagnosis]:
    """Yield what was found; the collection can open its images inside the block.

    Raises:
        DataError: there are no class folders, or too few images can be read.
        ArtefactError, ResourceError: of the network, of its weights, of the run, or of the device.
    """
    observer = _WithoutHint(observer)
    watch = _Watch(observer)
    with watch.collecting(subject) as found:
        images, more = found.collection, list(found.more.values())
        twins = watch("twins", lambda: find_twins(images, subject.recipe.seed))
        drawn = "val" in images.splits and "val" not in found.manifest.splits
        leaks = find_leaks(twins.groups, images.splits, images.labels)
        screens = Screens(
            twins=twins,
            leaks=leaks,
            labels=watch("labels", lambda: wrong_labels_of(images, subject.recipe.seed, twins.groups, more)),
            outliers=watch("outliers", lambda: find_outliers(images)),
            shortcuts=watch("shortcuts", lambda: find_shortcuts(images, drawn=drawn)),
            series=watch("series", lambda: find_series(images)),
            accuracies=watch(
                "accuracy", lambda: accuracies(subject, found.manifest, _digests(images, leaks), observer)
            ),
        )
        yield Diagnosis(
            name=name,
            manifest=found.manifest,
            digest=found.digest,
            collection=images,
            backbones=(found.backbone, *found.more),
            computed=found.computed,
            screens=screens,
            findings=findings_of(images, screens, found.manifest),
            seconds=watch.seconds,
        )


class _WithoutHint(Relay):
    """Keeps back the remark that tells a user of `train` to ask a doctor."""

    def note(self, text: str) -> None:
        """Pass other remarks on."""
        if not text.endswith(HINT):
            super().note(text)


def _digests(images: Collection, leaks: Leaks) -> dict[str, frozenset[str]]:
    """Return split -> SHA-256 of its images that have a twin in train."""
    return {
        split: frozenset(images.images[index].sha256 for index in indices) for split, indices in leaks.leaked.items()
    }


class _Watch:
    """Runs steps, with progress, and notes how long each took."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self.seconds: dict[str, float] = {}

    @contextmanager
    def collecting(self, subject: Subject) -> Iterator[Collected]:
        started = time.monotonic()
        with collected(
            subject.recipe,
            self._observer,
            as_on_disk=subject.run is None,
            find_twins=lambda *_: subject.groups,
        ) as found:
            self.seconds["collecting"] = round(time.monotonic() - started, 2)
            yield found

    def __call__(self, name: str, step: Callable[[], Result]) -> Result:
        started = time.monotonic()
        with self._observer.task(f"examining {name}", None):
            result = step()
        self.seconds[name] = round(time.monotonic() - started, 2)
        return result

"""What an examination has found, screen by screen and in words."""

from __future__ import annotations

from dataclasses import dataclass, field

from cnn_tl.data.manifest import Manifest
from cnn_tl.doctor.collection import Collection
from cnn_tl.doctor.findings import Finding
from cnn_tl.doctor.labels.wrong import WrongLabels
from cnn_tl.doctor.leaks import LeakedAccuracy, Leaks
from cnn_tl.doctor.outliers import Outlier
from cnn_tl.doctor.series import Series
from cnn_tl.doctor.shortcuts import Shortcut
from cnn_tl.doctor.twins import Twins


@dataclass(frozen=True)
class Screens:
    """What every screen has found.

    Attributes:
        accuracies: of the run, with and without leaked images; empty without a run or a leak.
    """

    twins: Twins
    leaks: Leaks
    labels: WrongLabels
    outliers: list[Outlier]
    shortcuts: list[Shortcut]
    series: Series | None
    accuracies: tuple[LeakedAccuracy, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was found.

    Attributes:
        name: of the data folder or run, as the caller gave it.
        digest: of the data as `train` would split it.
        backbones: whose features were used; further ones, where the cache has theirs, only for labels.
        findings: the most harmful first; empty where nothing was found.
        seconds: step -> the seconds that it took.
    """

    name: str
    manifest: Manifest
    digest: str
    collection: Collection
    backbones: tuple[str, ...]
    computed: int
    screens: Screens
    findings: tuple[Finding, ...]
    seconds: dict[str, float] = field(compare=False)

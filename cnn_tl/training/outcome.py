"""What the modes of training return: the validation logits, and facts about how the run went.

`Facts.to_dict` is what result.json holds under "facts"; `Facts.from_dict` reads it back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cnn_tl.abstention.evidence import Evidence
from cnn_tl.core.formatting import readable_bytes
from cnn_tl.data.manifest import Manifest
from cnn_tl.heads import FittedHead

Logits = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True)
class FeatureReads:
    """Where the features of a frozen backbone came from, and how fast they were computed.

    Attributes:
        way: precision, and on a CPU what computed.
        device: the hardware, in words.
        decode_images_per_second: rate of the workers alone; None if nothing was computed, as the next two.
        forward_images_per_second: rate of the network alone.
        images_per_second: rate of both together.
    """

    computed: int
    from_cache: int
    way: str
    device: str
    batch_size: int
    decode_images_per_second: float | None = None
    forward_images_per_second: float | None = None
    images_per_second: float | None = None


@dataclass(frozen=True)
class HeadFit:
    """What the fit of a head chose and how it went (plain data that depends on the kind), and its seconds."""

    chosen: Mapping[str, Any]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**self.chosen, "seconds": self.seconds}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> HeadFit:
        """Return the fit from the data of `to_dict`."""
        return HeadFit({key: value for key, value in stored.items() if key != "seconds"}, stored["seconds"])


@dataclass(frozen=True)
class ImageReads:
    """Numbers of images: decoded before the first step of a loop, found in the cache, decoded in each epoch."""

    decoded: int
    from_cache: int
    decoded_in_each_epoch: int


@dataclass(frozen=True)
class ActivationReads:
    """Whether activations at the end of the frozen part are cached.

    Attributes:
        reason: why they are not.
        boundary: the module after which they are taken.
        views: number of views of each image.
        bytes: size of all of them.
    """

    kept: bool
    reason: str | None = None
    boundary: str | None = None
    views: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class DataFacts:
    """What `data.exclude`, `data.relabel` and `data.groups` did.

    Attributes:
        excluded, relabelled: numbers of images.
        groups: number of groups of two and more images that were used, each in one split.
        grouped: number of images in them.
        kept_apart: number of images that were left out because their groups have images in another split.
    """

    excluded: int = 0
    relabelled: int = 0
    groups: int = 0
    grouped: int = 0
    kept_apart: int = 0

    @staticmethod
    def of(manifest: Manifest) -> DataFacts | None:
        """Return what a manifest says; None if nothing was done."""
        groups = Counter(image.group for image in manifest.images if image.group)
        sizes = [size for size in groups.values() if size > 1]
        facts = DataFacts(
            excluded=len(manifest.excluded),
            relabelled=len(manifest.relabelled()),
            groups=len(sizes),
            grouped=sum(sizes),
            kept_apart=len(manifest.kept_apart),
        )
        return None if facts == DataFacts() else facts


SOURCE_TIERS = {
    "device": "in the device's memory",
    "pinned": "in host memory",
    "disk": "in the cache on disk, read ahead of each step",
    "decode": "in files, decoded in each epoch",
}
"""Where the sources of training images can lie, the fastest first, in words that follow "lie"."""


@dataclass(frozen=True)
class SourceReads:
    """Where the sources of training images lay, if random views were drawn on the device.

    Attributes:
        tier: a key of `SOURCE_TIERS`.
        bytes: size of their pixels.
        reason: why no faster tier had room for them.
    """

    tier: str
    bytes: int
    reason: str | None = None

    def __str__(self) -> str:
        """Return for example "in the device's memory, 1.2 GB"."""
        return f"{SOURCE_TIERS[self.tier]}, {readable_bytes(self.bytes)}"


@dataclass(frozen=True)
class Temperature:
    """The temperature by which the logits were divided, and the validation loss before and after."""

    value: float
    val_loss_before: float
    val_loss: float


@dataclass(frozen=True)
class LoopFacts:
    """How a training loop went.

    Attributes:
        best_epoch: the epoch whose weights are kept; 0: the fitted head, before epoch 1; None: the last epoch, as the
            best weights were lost.
        epochs: how many were trained.
        lr: the peak learning rate.
        seconds_of_the_loop: duration of the loop, the sum over all starts of the run.
        phases: `Phases.receipts`.
        fitted_head_accuracy: validation accuracy of epoch 0.
        ended_early: the reason, if the loop ended before the last epoch.
        micro_batch: images in one forward pass, if memory ran out.
        frozen_sha256: digest of the tensors that were frozen in the last phase.
    """

    best_epoch: int | None
    epochs: int
    lr: float
    seconds_of_the_loop: float
    phases: list[dict[str, Any]]
    images: ImageReads | None = None
    activations: ActivationReads | None = None
    sources: SourceReads | None = None
    fitted_head_accuracy: float | None = None
    ended_early: str | None = None
    micro_batch: int | None = None
    frozen_sha256: str | None = None
    temperature: Temperature | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"best_epoch": self.best_epoch} | _present(self)

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> LoopFacts:
        """Read what `to_dict` returned, but for the digest, see `Facts`; older runs have "pictures" for "images"."""
        others = {
            "frozen_sha256": None,
            "images": _read(ImageReads, stored.get("images", stored.get("pictures"))),
            "activations": _read(ActivationReads, stored.get("activations")),
            "sources": _read(SourceReads, stored.get("sources")),
            "temperature": _read(Temperature, stored.get("temperature")),
        }
        return LoopFacts(**_known(LoopFacts, stored) | others)


@dataclass(frozen=True)
class Verdict:
    """The comparison of the fine-tuned model with the head on the frozen backbone, on the same images.

    Attributes:
        gain: difference of the accuracies.
        interval: 95% confidence interval of the gain.
        only_frozen_right, only_fine_tuned_right: images that only one of the two classifies correctly.
        p: p-value of McNemar's exact test, corrected for the choice among epochs.
        kept: "fine-tuned" or "frozen".
    """

    frozen_accuracy: float
    fine_tuned_accuracy: float
    gain: float
    interval: tuple[float, float]
    only_frozen_right: int
    only_fine_tuned_right: int
    p: float
    chosen_from_epochs: int
    more_than_chance: bool
    worse_than_chance: bool
    seconds_head: float
    seconds_fine_tuning: float
    kept: str

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Verdict:
        """Read what `asdict` returned; the first runs tested one epoch, and only whether fine-tuning is better."""
        older = {"chosen_from_epochs": 1, "worse_than_chance": False}
        return Verdict(**older | _known(Verdict, stored) | {"interval": tuple(stored["interval"])})


@dataclass(frozen=True)
class Facts:
    """How a run went; each mode fills in its part.

    Attributes:
        frozen_sha256: digest of the frozen backbone under a fitted head, which replaces the loop's; after `from_dict`,
            either of them.
        resumed: whether the run was resumed.
        data: what was left out, relabelled and grouped; None: nothing.
    """

    features: FeatureReads | None = None
    head: HeadFit | None = None
    loop: LoopFacts | None = None
    verdict: Verdict | None = None
    frozen_sha256: str | None = None
    resumed: bool = False
    data: DataFacts | None = None

    def kept_epoch(self, last: int) -> int | None:
        """Return the epoch whose weights the model has, 0 for the fitted head; None without a loop.

        Args:
            last: the last epoch of the loop.
        """
        if self.loop is None:
            return None
        if self.verdict is not None and self.verdict.kept == "frozen":
            return 0
        return last if self.loop.best_epoch is None else self.loop.best_epoch

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        found: dict[str, Any] = {}
        if self.data is not None:
            found["data"] = asdict(self.data)
        if self.features is not None:
            found["features"] = _present(self.features)
        if self.head is not None:
            found["head"] = self.head.to_dict()
        if self.loop is not None:
            found |= self.loop.to_dict()
        if self.verdict is not None:
            found["verdict"] = asdict(self.verdict)
        if self.frozen_sha256 is not None:
            found["frozen_sha256"] = self.frozen_sha256
        return found | ({"resumed": True} if self.resumed else {})

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Facts:
        """Read what `to_dict` returned, also in an older version; unknown keys are ignored.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: it is damaged.
        """
        return Facts(
            features=_read(FeatureReads, stored.get("features")),
            data=_read(DataFacts, stored.get("data")),
            head=HeadFit.from_dict(stored["head"]) if "head" in stored else None,
            loop=LoopFacts.from_dict(stored) if "best_epoch" in stored else None,
            verdict=Verdict.from_dict(stored["verdict"]) if "verdict" in stored else None,
            frozen_sha256=stored.get("frozen_sha256"),
            resumed=stored.get("resumed", False),
        )


@dataclass(frozen=True)
class Outcome:
    """The outcome of a mode.

    Attributes:
        logits: validation logits [N, K].
        head: fitted on the frozen backbone, only in the first process; None: the model is the network as it is.
        evidence: of held-out images, only in the first process.
    """

    logits: Logits
    facts: Facts = field(default_factory=Facts)
    head: FittedHead | None = None
    evidence: Evidence | None = None


def _present(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that are not None, recursively."""
    return asdict(value, dict_factory=lambda items: {name: item for name, item in items if item is not None})


def _known(kind: type[Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the fields that a dataclass has."""
    return {one.name: stored[one.name] for one in fields(kind) if one.name in stored}


def _read(kind: type[T], stored: Mapping[str, Any] | None) -> T | None:
    """Return a dataclass without nested ones, or None where nothing is stored."""
    return None if stored is None else kind(**_known(kind, stored))

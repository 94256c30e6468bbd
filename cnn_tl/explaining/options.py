"""What is to be explained and how, checked before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from cnn_tl.core import files
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.inference.classifier import is_onnx

READS: dict[str, frozenset[str]] = {
    "gradcam": frozenset({"images", "layer", "label"}),
    "xgradcam": frozenset({"images", "layer", "label"}),
    "layercam": frozenset({"images", "layer", "label"}),
    "occlusion": frozenset({"images", "label", "patch", "stride"}),
    "feature-maps": frozenset({"images", "layer", "channels"}),
    "deconv": frozenset({"images", "layer", "channels"}),
    "guided": frozenset({"images", "layer", "channels"}),
    "top-patches": frozenset({"images", "layer", "channels"}),
    "filters": frozenset(),
}
"""What each method goes by; anything else that is given to it is refused."""

ROWS, SHEET = "explanations.json", "contact-sheet"


@dataclass(frozen=True)
class Request:
    """What a user wants to see.

    Attributes:
        method: one of `READS`.
        images: the images; for `top-patches` those that are searched.
        layer: its name in the model; None takes the last map before the global pool.
        label: the class to explain; None takes the one that the model answers.
        channels: of the layer; none means the strongest.
        patch, stride: of the occlusion, as shares of the image's sides; None takes the defaults.
        faithfulness: measure deletion and insertion too.
        workers: threads that read images.
    """

    method: str
    images: Sequence[Path] = ()
    layer: str | None = None
    label: str | None = None
    channels: Sequence[int] = ()
    patch: float | None = None
    stride: float | None = None
    faithfulness: bool = True
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse what the method would not read.

        Raises:
            UsageError: an option that says nothing to this method, or images that are missing.
        """
        reads = READS[self.method] | {"method", "faithfulness", "workers"}
        flags = {"images": "IMAGES", "label": "--class", "channels": "--channel"}
        for field in fields(self):
            if getattr(self, field.name) and field.name not in reads:
                flag = flags.get(field.name, f"--{field.name}")
                heeding = ", ".join(method for method, read in READS.items() if field.name in read)
                raise UsageError(f"--method {self.method} does not go by {flag}; these do: {heeding}")
        if "images" in reads and not self.images:
            raise UsageError(f"--method {self.method} needs images: cnn-tl explain RUN IMAGES...")


def check_model(model: Path) -> None:
    """Refuse an export.

    Raises:
        UsageError: it has no gradients and no layers to look into.
    """
    if is_onnx(model):
        raise UsageError(
            f"{printable(model)} cannot be looked into, as an export has no gradients; "
            "name the run folder or the bundle that it was made from"
        )


def check_output(folder: Path) -> None:
    """Make sure that nothing is lost when the folder is written: it is absent, empty, or all of it is ours.

    Raises:
        UsageError: it is a file, or holds what an earlier `explain` has not written.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"--output {printable(folder)} is no folder; choose another name")
    inside = {path.name for path in folder.iterdir()}
    if not inside:
        return
    try:
        listed = {line[66:] for line in (folder / files.CHECKSUMS).read_text("utf-8").splitlines()}
    except (OSError, ValueError):
        listed = set()
    foreign = inside - listed - {files.CHECKSUMS}
    if ROWS not in listed or foreign:
        example = f", such as {printable(min(foreign))}" if foreign else ""
        raise UsageError(
            f"--output {printable(folder)} holds files that cnn-tl explain has not written{example}; "
            "choose another folder"
        )


def stems(images: Sequence[Path], reserved: str) -> list[str]:
    """Return a file name without extension for each image: its own, plain, with a number where two would meet."""
    taken = {reserved.casefold()}
    names = []
    for path in images:
        plain = "".join(c if c.isalnum() or c in "-_. " else "_" for c in path.stem).strip(". ")[:60] or "image"
        name, number = plain, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return names

"""What to explain and how, checked before torch is imported or a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from cnn_tl.core import files
from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.inference.inputs import find
from cnn_tl.inference.loading import is_onnx
from cnn_tl.networks import bundle

OPTIONS_OF: dict[str, frozenset[str]] = {
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
"""Method -> the options that it uses; any other option is refused."""

REPORT, SHEET = "explanations.json", "contact-sheet"
_FLAGS = {"images": "IMAGES", "label": "--class", "channels": "--channel"}


@dataclass(frozen=True)
class Method:
    """A method and its options; None and empty stand for defaults.

    Attributes:
        name: one of `OPTIONS_OF`.
        layer: its name in the model; None: the last map before the global pool.
        label: the class to explain; None: the predicted one.
        channels: of the layer; empty: the strongest.
        patch, stride: of the occlusion, as shares of the image's sides.
        faithfulness: whether to measure deletion and insertion of heat maps.
    """

    name: str
    layer: str | None = None
    label: str | None = None
    channels: tuple[int, ...] = ()
    patch: float | None = None
    stride: float | None = None
    faithfulness: bool = True

    def __post_init__(self) -> None:
        """Refuse an unknown method, and options that it does not use.

        Raises:
            UsageError: in one line.
        """
        if self.name not in OPTIONS_OF:
            raise UsageError(f"there is no method {self.name!r}; choose one of {', '.join(OPTIONS_OF)}")
        for field in fields(self):
            if field.name not in ("name", "faithfulness") and getattr(self, field.name):
                self._require_use_of(field.name)

    def require_images(self, images: Sequence[object]) -> None:
        """Refuse images for a method without, and none for a method with images.

        Raises:
            UsageError: in one line.
        """
        if images:
            self._require_use_of("images")
        elif "images" in OPTIONS_OF[self.name]:
            raise UsageError(f"--method {self.name} needs images: cnn-tl explain RUN IMAGES...")

    def _require_use_of(self, option: str) -> None:
        if option not in OPTIONS_OF[self.name]:
            flag = _FLAGS.get(option, f"--{option}")
            users = ", ".join(method for method, used in OPTIONS_OF.items() if option in used)
            raise UsageError(f"--method {self.name} does not use {flag}; these do: {users}")


@dataclass(frozen=True)
class ExplainJob:
    """A checked request.

    Attributes:
        model: a run folder or a bundle.
        images: the images; for top-patches those to search.
        output: the folder to write.
        workers: threads that read images.
    """

    model: Path
    images: tuple[Path, ...]
    output: Path
    method: Method
    workers: int


def prepare(
    model: Path, images: Sequence[str], output: Path | None, method: Method, *, limit: int | None = None
) -> ExplainJob:
    """Find the images, and check everything that can be checked without loading the model.

    Args:
        images: files, folders and patterns.
        output: None for explanations/METHOD.
        limit: take at most this many images.

    Raises:
        ArtefactError: there is no model. DataError: a folder or a pattern holds no image.
        UsageError: the model is an export, the output holds other files, or the images do not suit the method.
    """
    folder = output or Path("explanations", method.name)
    _refuse_export(model)
    require_own_folder(folder)
    bundle.find(model)
    found = tuple(find(images))[:limit]
    method.require_images(found)
    return ExplainJob(model, found, folder, method, default_workers())


def _refuse_export(model: Path) -> None:
    if is_onnx(model):
        raise UsageError(
            f"{printable(model)} is an export, which has no gradients; name the run folder or the bundle of it"
        )


def require_own_folder(folder: Path) -> None:
    """Check that replacing the folder loses nothing: it is absent or empty, or an earlier `explain` wrote all of it.

    Raises:
        UsageError: it is a file, or holds other files.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise UsageError(f"--output {printable(folder)} is not a folder; choose another name")
    inside = {path.name for path in folder.iterdir()}
    if not inside:
        return
    try:
        listed = {line[66:] for line in (folder / files.CHECKSUMS).read_text("utf-8").splitlines()}
    except (OSError, ValueError):
        listed = set()
    foreign = inside - listed - {files.CHECKSUMS}
    if REPORT not in listed or foreign:
        example = f", such as {printable(min(foreign))}" if foreign else ""
        raise UsageError(
            f"--output {printable(folder)} holds files that cnn-tl explain did not write{example}; "
            "choose another folder"
        )


def file_stems(images: Sequence[Path], reserved: str) -> list[str]:
    """Return a unique file name without suffix for each image: its own in plain characters, with a number if taken."""
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

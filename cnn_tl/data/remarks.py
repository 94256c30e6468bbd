"""What the user should hear about a folder that can be used, but perhaps should not be trusted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted
from cnn_tl.data.folders.walk import some_of
from cnn_tl.data.manifest import ImageRecord, Manifest

_IMBALANCE = 10


def remarks(manifest: Manifest, animated: int) -> list[str]:
    """Return the remarks, a line each; `animated` images have several frames."""
    lines = [*_missing(manifest), *_few(manifest), *_copies(manifest)]
    if animated:
        lines.append(f"animated images, of which the first frame is used: {animated:,}")
    return lines


def _missing(manifest: Manifest) -> Iterator[str]:
    counts = manifest.counts()
    for split in ("val", "test"):
        missing = [name for name, count in counts.items() if not count[split]]
        if missing and manifest.of(split):
            yield f"classes without an image in {split}: {some_of(missing)}"


def _few(manifest: Manifest) -> Iterator[str]:
    sizes = {name: count["train"] for name, count in manifest.counts().items()}
    single = [name for name, size in sizes.items() if size == 1]
    if single:
        yield f"classes with one training image only: {some_of(single)}"
    most, least = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
    if sizes[most] >= _IMBALANCE * sizes[least]:
        yield (
            f"the classes are far from balanced: {counted(sizes[most], 'training image')} of {printable(most)}, "
            f"{sizes[least]:,} of {printable(least)}"
        )


def _copies(manifest: Manifest) -> Iterator[str]:
    """Find equal files: outside of train they flatter the accuracy, in two classes one label is wrong."""
    same: dict[str, list[ImageRecord]] = defaultdict(list)
    for image in manifest.images:
        same[image.sha256].append(image)
    groups = [group for group in same.values() if len(group) > 1]
    for split in ("val", "test"):
        leaks = [
            next(image for image in group if image.split == split)
            for group in groups
            if {"train", split} <= {image.split for image in group}
        ]
        if leaks:
            yield (
                f"images of {split} that are also in train, so that the accuracy will look too good: "
                f"{len(leaks):,} (such as {printable(leaks[0].path)})"
            )
    torn = [group for group in groups if len({image.label for image in group}) > 1]
    if torn:
        pair = " and ".join(printable(image.path) for image in torn[0][:2])
        yield f"images that lie in two classes at once: {len(torn):,} (such as {pair})"
    within = sum(len(group) - len({(p.label, p.split) for p in group}) for group in groups)
    if within:
        yield f"copies of another image of the same class and part: {within:,}"

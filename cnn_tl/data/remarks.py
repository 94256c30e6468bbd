"""What the user should hear about a folder that can be used, but perhaps should not be trusted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from cnn_tl.core.errors import printable
from cnn_tl.core.formatting import counted
from cnn_tl.data.folders.walk import some_of
from cnn_tl.data.manifest import Manifest, Picture

_IMBALANCE = 10


def remarks(manifest: Manifest, animated: int) -> list[str]:
    """Return the remarks, a line each; `animated` pictures have several frames."""
    lines = [*_missing(manifest), *_few(manifest), *_copies(manifest)]
    if animated:
        lines.append(f"animated pictures, of which the first frame is used: {animated:,}")
    return lines


def _missing(manifest: Manifest) -> Iterator[str]:
    counts = manifest.counts()
    for split in ("val", "test"):
        missing = [name for name, count in counts.items() if not count[split]]
        if missing and manifest.of(split):
            yield f"classes without a picture in {split}: {some_of(missing)}"


def _few(manifest: Manifest) -> Iterator[str]:
    sizes = {name: count["train"] for name, count in manifest.counts().items()}
    single = [name for name, size in sizes.items() if size == 1]
    if single:
        yield f"classes with one training picture only: {some_of(single)}"
    most, least = max(sizes, key=sizes.__getitem__), min(sizes, key=sizes.__getitem__)
    if sizes[most] >= _IMBALANCE * sizes[least]:
        yield (
            f"the classes are far from balanced: {counted(sizes[most], 'training image')} of {printable(most)}, "
            f"{sizes[least]:,} of {printable(least)}"
        )


def _copies(manifest: Manifest) -> Iterator[str]:
    """Find equal files: outside of train they flatter the accuracy, in two classes one label is wrong."""
    same: dict[str, list[Picture]] = defaultdict(list)
    for picture in manifest.pictures:
        same[picture.sha256].append(picture)
    groups = [group for group in same.values() if len(group) > 1]
    for split in ("val", "test"):
        leaks = [
            next(picture for picture in group if picture.split == split)
            for group in groups
            if {"train", split} <= {picture.split for picture in group}
        ]
        if leaks:
            yield (
                f"pictures of {split} that are also in train, so that the accuracy will look too good: "
                f"{len(leaks):,} (such as {printable(leaks[0].path)})"
            )
    torn = [group for group in groups if len({picture.label for picture in group}) > 1]
    if torn:
        pair = " and ".join(printable(picture.path) for picture in torn[0][:2])
        yield f"pictures that lie in two classes at once: {len(torn):,} (such as {pair})"
    within = sum(len(group) - len({(p.label, p.split) for p in group}) for group in groups)
    if within:
        yield f"copies of another picture of the same class and part: {within:,}"

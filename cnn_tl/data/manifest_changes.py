"""How the images of a data folder differ from those of an earlier scan."""

from __future__ import annotations

from collections.abc import Iterator

from cnn_tl.core.errors import printable
from cnn_tl.data.manifest import ImageRecord, Manifest, SetAside, Split


def changes(before: Manifest, now: Manifest) -> list[str]:
    """Return how the images of `now` differ from those `before` by content, one line each.

    The location of the root and modification times do not matter; an image that only one of the two sets aside does
    not differ if its bytes are the same. Neither do files of corrections that say the same in other words.
    """
    return sorted(map(printable, [*_other_files(before, now), *_other_corrections(before, now)]))


def _contents(manifest: Manifest) -> dict[str, tuple[str, Split]]:
    entries: tuple[ImageRecord | SetAside, ...] = (*manifest.images, *manifest.set_aside, *manifest.kept_apart)
    return {entry.path: (entry.sha256, entry.split) for entry in entries}


def _other_files(before: Manifest, now: Manifest) -> Iterator[str]:
    """Yield which images are new, gone, moved or changed."""
    old, new = _contents(before), _contents(now)
    old_excluded, new_excluded = ({one.path for one in each.excluded} for each in (before, now))
    gone = {path: sha256 for path, (sha256, _) in old.items() if path not in new and path not in new_excluded}
    added = {path: sha256 for path, (sha256, _) in new.items() if path not in old and path not in old_excluded}
    origins = {sha256: path for path, sha256 in gone.items()}
    for path, sha256 in added.items():
        origin = origins.pop(sha256, None)
        yield f"added: {path}" if origin is None else f"moved: {origin} -> {path}"
        gone.pop(origin or "", None)
    yield from (f"removed: {path}" for path in gone)
    for path in old.keys() & new.keys():
        (old_sha256, old_split), (new_sha256, new_split) = old[path], new[path]
        if old_sha256 != new_sha256:
            yield f"changed: {path}"
        elif old_split != new_split:
            yield f"moved from {old_split} to {new_split}: {path}"


def _other_corrections(before: Manifest, now: Manifest) -> Iterator[str]:
    """Yield what `data.exclude`, `data.relabel` and `data.groups` make of the same images now."""
    old, new = _contents(before).keys(), _contents(now).keys()
    old_excluded, new_excluded = ({one.path for one in each.excluded} for each in (before, now))
    yield from (f"excluded now: {path}" for path in new_excluded & old)
    yield from (f"no longer excluded: {path}" for path in old_excluded & new)
    old_apart, new_apart = ({one.path for one in each.kept_apart} for each in (before, now))
    yield from (f"in a group of another split now: {path}" for path in (new_apart - old_apart) & old)
    yield from (f"no longer in a group of another split: {path}" for path in (old_apart - new_apart) & new)
    images = {image.path: image for image in now.images}
    for image in before.images:
        other = images.get(image.path, image)
        if before.classes[image.label] != now.classes[other.label]:
            yield f"relabelled from {before.classes[image.label]} to {now.classes[other.label]}: {image.path}"
        if image.group != other.group:
            yield f"in another group: {image.path}"

"""The role of a folder by its name: a split of the data, something else beside it, or unknown (maybe a class)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from cnn_tl.data.manifest import Split

Role = Literal["train", "val", "test", "other", "unclear", "clutter", "images", "labels"]
"""A split; `other`: data that is not for training; `unclear`: data of a split that only its owner knows; `clutter`:
files that are not data; `images`: unsorted images; `labels`: annotations of images."""

_WORDS: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "devel", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tests", "tst"), "test"),
    **dict.fromkeys(("sample", "samples", "example", "examples", "demo", "extra", "submission"), "other"),
    **dict.fromkeys(("pred", "predict", "prediction", "predictions", "infer", "inference"), "other"),
    **dict.fromkeys(("unlabeled", "unlabelled", "nolabel", "unannotated", "unsorted"), "other"),
    **dict.fromkeys(("trainval", "eval", "evaluation", "holdout", "heldout", "query", "gallery", "probe"), "unclear"),
    **dict.fromkeys(("public", "private", "support", "fold", "folds", "split", "part", "batch", "subset"), "unclear"),
    **dict.fromkeys(("logs", "log", "runs", "results", "output", "outputs", "checkpoints", "models"), "clutter"),
    **dict.fromkeys(("weights", "tmp", "temp", "cache", "doc", "docs", "notebooks", "scripts", "src"), "clutter"),
    **dict.fromkeys(("code", "plots", "figures", "backup", "config", "configs", "tensorboard"), "clutter"),
}  # fmt: skip
_IMAGES = {"image", "images", "img", "imgs", "picture", "pictures", "pics", "photo", "photos", "jpegimages"}
_LABELS = {"annotation", "annotations", "label", "labels", "mask", "masks", "xml", "xmls", "trimap", "trimaps"}
_LABELS |= {"segmentation", "segmentations", "segmentationclass", "segmentationobject", "bbox", "bboxes", "imagesets"}
_LABELS |= {"groundtruth", "gt", "json", "jsons", "metadata", "meta", "attributes", "parts", "csv", "splits"}
_FILLERS = {*_IMAGES, "set", "sets", "data", "dataset", "datasets", "folder", "files", "dir", "raw"}
_FILLERS |= {"jpg", "jpeg", "png", "resized", "cropped", "final", "new", "all", "the", "my"}
_LABELLED = {"labelled", "labeled", "annotated"}
_FILLERS |= _LABELLED
_UNLABELLED = re.compile(r"(?:un|non?|not|without)(?:label(?:led|ed|s)?|annotat(?:ed|ions?))")
_PIECES = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_A-Za-z]+")
_JOINED = re.compile(r"(?:set|data|images|imgs|folder|dir)?(train(?:ing)?|val(?:id(?:ation)?)?|dev|test(?:ing)?)"
                     r"(?:set|data|images|imgs|folder|dir|split)?")  # fmt: skip


def roles_of(names: Sequence[str]) -> dict[str, Role]:
    """Return the roles of folders in the same place, by their names; names without a role are absent.

    A split's word among other words counts if a neighbour has the same other words (`cars_train`, `cars_test`), but
    `train_station` and `test_tube` are classes. `trainA` is unclear.
    """
    read = {name: _read(name) for name in names}
    found: dict[str, Role] = {}
    for name, (role, rest) in read.items():
        if role is None:
            continue
        alike = {other for other, others_rest in read.values() if others_rest == rest and other is not None}
        if not rest or len(alike) > 1:
            found[name] = role
        elif role in get_args(Split) and all(len(piece) == 1 for piece in rest):
            found[name] = "unclear"
    return found


def is_filler(name: str) -> bool:
    """Return whether a name only says that there is data, like `images` or `raw_data`; no class is called that."""
    pieces = _pieces(name)
    return bool(pieces) and all(piece in _FILLERS for piece in pieces)


def is_unlabelled(name: str) -> bool:
    """Return whether a name says that the data is unlabelled, like `unlabelled_images`; no class is called that.

    `unlabelled bottle` could be a class.
    """
    pieces = _pieces(name)
    kept = [piece for piece in pieces if piece in _LABELLED or piece not in _FILLERS]
    return any(_UNLABELLED.fullmatch("".join(some)) for some in (pieces, kept))


def mentions_a_split(name: str) -> bool:
    """Return whether a name contains a word for train, val or test, or one that begins with it: `Trainingsdaten`."""
    pieces = _pieces(name)
    return any(_word(piece) in get_args(Split) or piece.startswith(("train", "test", "valid")) for piece in pieces)


def splits_of(names: Iterable[str]) -> set[Split]:
    """Return the splits that folders are, by their names."""
    roles = set(roles_of(list(names)).values())
    return {split for split in get_args(Split) if split in roles}


def _read(name: str) -> tuple[Role | None, tuple[str, ...]]:
    """Return the role of a name on its own, and its other words."""
    pieces = _pieces(name)
    joined = "".join(pieces)
    if joined in _LABELS or (pieces and all(piece in _LABELS | _FILLERS for piece in pieces) and not is_filler(name)):
        return "labels", ()
    if any(piece in _IMAGES or joined in _IMAGES for piece in pieces) and is_filler(name):
        return "images", ()
    words = {word for piece in pieces if (word := _word(piece)) is not None}
    rest = tuple(piece for piece in pieces if _word(piece) is None and piece not in _FILLERS)
    if not words:
        return None, rest
    if len(words) > 1:
        return "unclear", rest
    return words.pop(), rest


def _pieces(name: str) -> list[str]:
    return [piece.casefold() for piece in _PIECES.findall(name)]


def _word(piece: str) -> Role | None:
    if piece in _WORDS:
        return _WORDS[piece]
    joined = _JOINED.fullmatch(piece)
    return _WORDS[joined[1]] if joined else None

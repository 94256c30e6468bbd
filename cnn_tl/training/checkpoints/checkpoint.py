"""Checkpoints: folders of safetensors and JSON with checksums, written atomically.

    checkpoints/
      step-00000042-00003/   model.safetensors  optimizer.safetensors  state.json  SHA256SUMS
      best-00002/            model.safetensors  state.json  SHA256SUMS

A step checkpoint is named by the step and the number of finished epochs, the best weights by their epoch. So a step
checkpoint never replaces another one, and a kill cannot lose both. The best weights of an epoch may be replaced: an
epoch that no checkpoint has recorded yet may be trained again.
Nothing in a checkpoint is executable, and no state of a random generator is stored: a step's randomness is a function
of the seed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, printable

KEEP = 2
BEST = "best"
_STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """Groups of tensors by name ("model", "optimizer"), and the state of training as plain data for JSON."""

    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


def save_step(folder: Path, step: int, epochs: int, checkpoint: Checkpoint) -> None:
    """Write the checkpoint of `step`, after `epochs` finished epochs, and remove all but the newest `KEEP`.

    Raises:
        ResourceError: the disk is full or not writable; older checkpoints are kept.
    """
    target = folder / f"step-{step:08d}-{epochs:05d}"
    if not _is_whole(target):
        save(target, checkpoint)
    for old in _steps(folder)[KEEP:]:
        shutil.rmtree(old, ignore_errors=True)


def remove_other_best(kept: Path) -> None:
    """Remove all best weights except `kept`."""
    for old in kept.parent.glob(f"{BEST}-*"):
        if old != kept:
            shutil.rmtree(old, ignore_errors=True)


def save(target: Path, checkpoint: Checkpoint) -> None:
    """Write one checkpoint folder atomically, replacing an older one of that name."""
    with files.atomic_folder(target) as fresh:
        for name, tensors in checkpoint.tensors.items():
            files.write_tensors(fresh / f"{name}.safetensors", tensors)
        files.write_json(fresh / _STATE, checkpoint.state)


def _is_whole(folder: Path) -> bool:
    try:
        files.verify_checksums(folder)
    except ArtefactError:
        return False
    return True


def load(folder: Path) -> Checkpoint:
    """Read one checkpoint folder.

    Raises:
        ArtefactError: it is missing or damaged.
    """
    files.verify_checksums(folder)
    tensors = {path.stem: files.read_tensors(path) for path in folder.glob("*.safetensors")}
    return Checkpoint(tensors, files.read_json(folder / _STATE))


def load_newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Read the newest undamaged checkpoint, with a warning for each damaged newer one; None if there are none.

    Raises:
        ArtefactError: there are checkpoints, and every one is damaged.
    """
    steps = _steps(folder)
    for path in steps:
        try:
            return load(path)
        except ArtefactError as error:
            warn(f"{error}; trying the checkpoint before it")
    if steps:
        raise ArtefactError(f"every checkpoint in {printable(folder)} is damaged; start again with another --output")
    return None


@contextmanager
def reporting_mismatch(folder: Path) -> Iterator[None]:
    """Report errors while a checkpoint in `folder` is restored as a mismatch between checkpoint and run.

    Raises:
        ArtefactError: the checkpoint belongs to another recipe, or another version wrote it.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArtefactError(
            f"the checkpoints in {printable(folder)} do not fit the recipe beside them: {reason[:120]}; restore "
            "recipe.yaml, or start again with another --output"
        ) from error


def _steps(folder: Path) -> list[Path]:
    """Return the step checkpoints, newest first."""
    return sorted((p for p in folder.glob("step-*") if p.is_dir()), reverse=True)

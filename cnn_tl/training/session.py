"""What every way of training works with: the recipe, the pictures, the network, the machine, the run folder."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cnn_tl import files
from cnn_tl.data import transforms
from cnn_tl.data.loader import Batch, read_groups
from cnn_tl.data.manifest import Manifest, Picture
from cnn_tl.errors import BadImageError, DataError, printable
from cnn_tl.networks.backbone import Network
from cnn_tl.progress import Observer
from cnn_tl.recipe import Recipe
from cnn_tl.runtime import Precision, StopRequest, default_workers
from cnn_tl.training.run_folder import RunFolder

Pixels = NDArray[np.uint8]

MOST_NAMED = 10


@dataclass
class Session:
    """One training run in the making.

    Attributes:
        manifest: shrinks when a picture turns out to be broken while it is decoded.
        precision: of the training part; validation is always float32, as in predict.
        stop: set by SIGINT and SIGTERM.
        facts: what the run learns about itself, for result.json.
    """

    recipe: Recipe
    manifest: Manifest
    network: Network
    device: torch.device
    precision: Precision
    run: RunFolder
    observer: Observer
    stop: StopRequest = field(default_factory=StopRequest)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def workers(self) -> int:
        """How many threads read pictures."""
        return self.recipe.run.workers or default_workers()

    @property
    def batch_size(self) -> int:
        """How many pictures go through the network at once."""
        assert self.recipe.train.batch_size is not None, "the recipe is resolved"
        return self.recipe.train.batch_size

    def file_of(self, picture: Picture) -> Path:
        """Return the picture's file, after a cheap check that it is the one that was scanned.

        Raises:
            DataError: it has changed or vanished since.
        """
        self.manifest.verify(picture)
        return self.manifest.file(picture)

    def evaluation_pixels(self, picture: Picture) -> Pixels:
        """Read a picture the way predict does, uint8 [H, W, 3]."""
        return transforms.load(self.file_of(picture), self.network.preprocessing)

    def read(
        self, groups: list[list[Picture]], pixels_of: Callable[[Picture], Pixels] | None = None
    ) -> Iterator[Batch[Picture]]:
        """Yield batches in order; leave at once when a signal asks for it, or a bad picture by the recipe's policy.

        Raises:
            DataError: a picture cannot be read, and the recipe says `on_bad_image: fail`.
            Stopped: a signal came.
        """
        for batch in read_groups(groups, pixels_of or self.evaluation_pixels, workers=self.workers):
            self.raise_if_stopped()
            if batch.failures and self.recipe.data.on_bad_image == "fail":
                raise DataError(f"{batch.failures[0][1]}; mend or remove it, or set data.on_bad_image: skip")
            yield batch

    def check_pictures(self) -> None:
        """Decode every picture once and set the broken ones aside, before hours are spent on the others.

        Raises:
            DataError: what is left cannot be trained on.
            Stopped: a signal came.
        """
        pictures = self.manifest.of("train") + self.manifest.of("val")
        broken = []
        with self.observer.task("checking pictures", len(pictures)):
            for batch in self.read(in_groups(pictures, self.batch_size)):
                broken += batch.failures
                self.observer.advance(len(batch.items) + len(batch.failures))
        self.set_aside(broken)

    def set_aside(self, failures: list[tuple[Picture, BadImageError]]) -> None:
        """Take pictures that could not be decoded out of the manifest.

        Raises:
            DataError: what is left cannot be trained on.
        """
        if not failures:
            return
        warn_of_set_aside(self.observer, [str(error) for _, error in failures])
        self.manifest = self.manifest.without((picture, error.reason) for picture, error in failures)
        self.manifest.check()
        if self.run.recipe.exists():  # a resumed run leaves them out too; a plan writes nothing
            files.write_json(self.run.manifest, self.manifest.to_json())

    def raise_if_stopped(self) -> None:
        """End the run with the line that says how to go on, if a signal has come."""
        self.stop.raise_if_asked(f"stopped; go on with: {self.resume_command}")

    @property
    def resume_command(self) -> str:
        """The command that goes on with this run."""
        return f"cnn-tl train --resume --output {shlex.quote(printable(self.run.path))}"


def warn_of_set_aside(observer: Observer, broken: Sequence[str]) -> None:
    """Name the pictures that are set aside, up to a number that a person reads."""
    for text in broken[:MOST_NAMED]:
        observer.warn(f"set aside: {text}")
    if len(broken) > MOST_NAMED:
        observer.warn(f"set aside: {len(broken) - MOST_NAMED:,} more; manifest.json in the run folder lists all")


def in_groups(pictures: Sequence[Picture], size: int) -> list[list[Picture]]:
    """Cut a sequence into consecutive groups of `size`, the last one smaller."""
    return [list(pictures[start : start + size]) for start in range(0, len(pictures), size)]

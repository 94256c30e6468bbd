"""`cnn-tl predict`: many images through a classifier, and a row for each into a stream, a new file or an old one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

from cnn_tl.abstention.rule import Rule
from cnn_tl.core import files
from cnn_tl.core.progress import Observer
from cnn_tl.inference.append_answers import Asked, EarlierAnswers, appending, columns_of, forget
from cnn_tl.inference.classifier import Answer, Classifier
from cnn_tl.inference.writers import WRITERS, Columns


@dataclass(frozen=True)
class Destination:
    """Where answers go.

    Attributes:
        write: takes all answers and writes them one by one.
        earlier: the answers that are there already; their images are skipped.
    """

    write: Callable[[Iterable[Answer]], None]
    earlier: EarlierAnswers = field(default_factory=EarlierAnswers)


@dataclass(frozen=True)
class Written:
    """What has been written: rows, how many were skipped because they were there already, and unreadable images.

    Attributes:
        rows: new rows. skipped: images that had a row. unreadable: images of either that could not be read.
    """

    rows: int
    skipped: int
    unreadable: int

    @property
    def images(self) -> int:
        """How many images have a row now."""
        return self.rows + self.skipped


def predict_into(
    destination: Destination,
    classifier: Classifier,
    images: Sequence[Path] | Iterator[Path],
    *,
    top: int,
    batch_size: int | None,
    workers: int | None,
    rule: Rule,
    observer: Observer,
) -> Written:
    """Predict each image and write its answer at once, the first one once the model has proved to be sound.

    Args:
        images: an iterator when they are still arriving, as from a pipe; what has arrived is then answered without
            waiting for a full batch.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    earlier = destination.earlier
    arriving = not isinstance(images, Sequence)
    left = earlier.unanswered(images) if arriving else list(earlier.unanswered(images))
    answers = classifier.answers(
        left,
        total=len(left) if isinstance(left, list) else None,
        live=arriving,
        top=top,
        batch_size=batch_size,
        workers=workers,
        rule=rule,
        observer=observer,
    )
    if not arriving:
        answers = chain(list(islice(answers, 1)), answers)
    rows = unreadable = 0

    def counted() -> Iterator[Answer]:
        nonlocal rows, unreadable
        for answer in answers:
            rows += 1
            unreadable += answer.error is not None
            yield answer

    destination.write(counted())
    return Written(rows, earlier.skipped, unreadable + earlier.skipped_failures)


@contextmanager
def new_file(path: Path, write: Callable[[Iterable[Answer], Path], None]) -> Iterator[Destination]:
    """Yield a destination that becomes the file `path`, whole, when the block ends without an error.

    Args:
        write: writes answers to a path; `text_file` makes one from a writer for streams.
    """
    with files.atomic_path(path) as temporary:
        with files.disk_errors(path):
            yield Destination(lambda answers: write(answers, temporary))
        forget(path)


def text_file(
    write: Callable[[Iterable[Answer], TextIO], None],
) -> Callable[[Iterable[Answer], Path], None]:
    """Return a function that opens a text file and writes answers to it; names that are not UTF-8 keep their bytes."""

    def write_to(answers: Iterable[Answer], path: Path) -> None:
        with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
            write(answers, stream)

    return write_to


@contextmanager
def end_of_file(
    path: Path, format: str, model: str, columns: Columns, observer: Observer, asked: Asked | None = None
) -> Iterator[Destination]:
    """Yield a destination at the end of a file of answers; see `appending`."""
    columns = columns_of(path, columns)
    with appending(path, format, model, columns, observer, asked) as (stream, earlier):
        remaining = replace(columns, header=earlier.end == 0)
        yield Destination(lambda answers: WRITERS[format](answers, stream, remaining), earlier)

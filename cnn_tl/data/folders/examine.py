"""Reads the header and the checksum of files that claim to be images, at the pace of the machine.

A file in the system's memory is read within microseconds: threads would only take the interpreter from each other. A
file that a disk or a network has to bring makes its reader wait, and many can wait at the same time. So this thread and
a pool of threads read stretches of files in turn, and most of them those who were faster.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from cnn_tl.core.errors import BadImageError, DataError, printable
from cnn_tl.core.retries import retried
from cnn_tl.data.decoding.image import ImageLimits, probe, probe_head
from cnn_tl.data.loader import in_groups, thread_pool
from cnn_tl.data.manifest import ImageRecord, SetAside, Split

Progress = Callable[[int, int], None]

_HEAD = 1 << 20
"""The most bytes of a file that are kept in memory."""
_OPEN = os.O_RDONLY | getattr(os, "O_BINARY", 0)

WAITING = 32
"""Threads that wait for a disk or a network at the same time, where nobody has chosen another number."""
_STEP = 64
"""Files from one report of progress to the next."""
_TASK = 8
"""Files that one of several threads reads in one go."""
_LENGTHS = {"alone": 8 * _STEP, "together": 16 * _STEP}
"""Files that are read in one way before the other way may be tried again."""
_TRIALS = {"alone": _STEP, "together": 4 * _STEP}
"""Files that are read to find out how fast a way is."""
_TRIAL_SHARE = 0.1
"""The share of the time that is spent on trying the other way."""
_QUICK = 5000.0
"""Files a second from which threads are tried only after `_PATIENCE` seconds: a short scan is over by then."""
_PATIENCE = 0.5


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that claims to be an image.

    Attributes:
        path: in the manifest. below_class: the part of it below the class folder.
        label, split: of the class folder.
    """

    name: str
    path: str
    label: int
    split: Split
    below_class: str = ""


@dataclass(frozen=True, slots=True)
class Examined:
    """The result of reading a candidate's header and checksum."""

    entry: ImageRecord | SetAside
    animated: bool = False


def examine_all(
    candidates: Sequence[Candidate], limits: ImageLimits, workers: int, on_progress: Progress | None = None
) -> list[Examined]:
    """Read the header and the checksum of all candidates, in order.

    Args:
        workers: threads that may read at the same time; 0: only this one.
        on_progress: called in this thread with the number of files done and of all.

    Raises:
        DataError: a file cannot be read.
        ResourceError: the machine could not read one, even after several attempts.
    """
    found: list[Examined] = []
    pace = Pace(alone=not workers)
    pool = thread_pool(workers)
    try:
        while len(found) < len(candidates):
            way, length = pace.choose()
            stretch = candidates[len(found) : len(found) + length]
            started = time.perf_counter()
            for group in _examine_stretch(stretch, limits, pool if way == "together" else None):
                found += group
                if on_progress is not None and (len(found) % _STEP == 0 or len(found) == len(candidates)):
                    on_progress(len(found), len(candidates))
            pace.record(way, len(stretch), time.perf_counter() - started)
    finally:
        pool.shutdown(cancel_futures=True)
    return found


class Pace:
    """Chooses who reads the next files, by how fast each way was when it was last tried."""

    def __init__(self, *, alone: bool) -> None:
        self._alone = alone
        self._rates: dict[str, float] = {}
        self._last_trial = self._since_trial = 0.0

    def choose(self) -> tuple[str, int]:
        """Return the way to read the next files, and how many."""
        if self._alone:
            return "alone", _LENGTHS["alone"]
        if "alone" not in self._rates:
            return "alone", _TRIALS["alone"]
        if "together" not in self._rates:
            waits = self._rates["alone"] < _QUICK or self._since_trial > _PATIENCE
            return ("together", _TRIALS["together"]) if waits else ("alone", _LENGTHS["alone"])
        slower, faster = sorted(self._rates, key=self._rates.__getitem__)
        if self._last_trial < _TRIAL_SHARE * self._since_trial:
            return slower, _TRIALS[slower]
        return faster, _LENGTHS[faster]

    def record(self, way: str, files: int, seconds: float) -> None:
        """Record how long the files took."""
        slower = len(self._rates) == len(_TRIALS) and way == min(self._rates, key=self._rates.__getitem__)
        if slower or way not in self._rates:
            self._last_trial, self._since_trial = seconds, 0.0
        else:
            self._since_trial += seconds
        self._rates[way] = files / max(seconds, 1e-9)


def _examine_stretch(
    stretch: Sequence[Candidate], limits: ImageLimits, pool: Executor | None
) -> Iterator[list[Examined]]:
    groups = in_groups(stretch, _TASK)
    if pool is None:
        return ([_examine(one, limits) for one in group] for group in groups)
    return pool.map(lambda group: [_examine(one, limits) for one in group], groups)


def _examine(candidate: Candidate, limits: ImageLimits) -> Examined:
    try:
        head, whole, sha256, facts = retried(lambda: _read(candidate.name), candidate.name)
    except OSError as error:
        raise DataError(f"{printable(candidate.name)} cannot be read: {error.strerror}") from error
    try:
        header = probe_head(head, limits) or probe(head if whole else Path(candidate.name), limits)
    except BadImageError as error:
        return Examined(SetAside(candidate.path, candidate.split, sha256, error.reason))
    record = ImageRecord(candidate.path, candidate.label, candidate.split, facts.st_size, facts.st_mtime_ns, sha256)
    return Examined(record, header.animated)


def _read(name: str) -> tuple[bytes, bool, str, os.stat_result]:
    """Return the first bytes of a file, whether these are all, the SHA-256 of all, and its `stat`."""
    descriptor = os.open(name, _OPEN)
    try:
        facts = os.fstat(descriptor)
        head = os.read(descriptor, min(facts.st_size + 1, _HEAD))
        digest = hashlib.sha256(head)
        whole = len(head) == facts.st_size
        if not whole:
            while piece := os.read(descriptor, _HEAD):
                digest.update(piece)
        return head, whole, digest.hexdigest(), facts
    finally:
        os.close(descriptor)

"""Every error that a user can meet, with its exit code.

    CnnTlError                    1   (only subclasses are raised; a bare one is a bug in cnn-tl)
    ├── UsageError                2   a flag, an argument or a combination that makes no sense
    │   └── RecipeError           2   a recipe that cannot be read, or contradicts itself
    ├── DataError                 3   the folder of images, or an image in it
    │   └── BadImageError         3   one image that cannot be read
    ├── ArtefactError             4   a checkpoint, weights file, bundle or export
    ├── ResourceError             5   disk, memory, device, network, lock
    ├── DivergedError             6   the loss or the weights are no longer finite
    └── Stopped               130/143 the user (SIGINT) or the system (SIGTERM) asked us to stop

A message is one line that says what is wrong, where, and what to do. The library raises; only `cli/` prints.
"""

from __future__ import annotations

import signal
from pathlib import Path


class CnnTlError(Exception):
    """The root of the tree.

    Attributes:
        exit_code: what the command line ends with.
        known_to_all: in a run of several processes, whether all of them raise this error, so that only the first prints
            it; None if it was raised before they were connected.
    """

    exit_code = 1
    known_to_all: bool | None = None


class UsageError(CnnTlError):
    """A flag, an argument or a combination of them that makes no sense."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that cannot be read, names an unknown key, or contradicts itself."""


class DataError(CnnTlError):
    """The data folder is unusable, or images changed under a run."""

    exit_code = 3


class BadImageError(DataError):
    """One image that cannot be used.

    Attributes:
        path: the file; None for bytes in memory.
        reason: a few words without the path, such as "truncated file".

    """

    def __init__(self, path: Path | None, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(reason if path is None else f"{printable(path)}: {reason}")

    def __reduce__(self) -> tuple[type[BadImageError], tuple[Path | None, str]]:
        """Make it picklable, for other processes."""
        return type(self), (self.path, self.reason)


class ArtefactError(CnnTlError):
    """A checkpoint, weights file, bundle or export is missing, damaged, foreign or wrong."""

    exit_code = 4


class ResourceError(CnnTlError):
    """The machine lacks something: disk space, memory, a device, the network, a lock."""

    exit_code = 5


class DivergedError(CnnTlError):
    """Training produced NaN or infinity; nothing non-finite was saved."""

    exit_code = 6


class Stopped(CnnTlError):  # noqa: N818 - not a failure
    """The run was asked to stop and did so cleanly; `exit_code` is 128 + the signal's number."""

    def __init__(self, message: str, signal_number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def printable(path: Path | str) -> str:
    """Return a path that is safe on a terminal: control characters and undecodable bytes are escaped."""
    text = str(path)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)

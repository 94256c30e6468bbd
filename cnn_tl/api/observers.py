"""How a Python call shows progress and warnings: on a terminal, in a notebook, or through the logger "cnn_tl"."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from cnn_tl.core.progress import Observer


@contextmanager
def quiet_dependencies() -> Iterator[None]:
    """Hide Pillow's warnings about metadata and tqdm's about widgets; the caller's warning filters are restored."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.\w+ImagePlugin")
        warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, in a notebook without widgets
        yield


class _LoggingObserver(Observer):
    """Logs to "cnn_tl" where there is no screen; Python prints warnings of a logger that nobody has configured."""

    _logger = logging.getLogger("cnn_tl")

    def note(self, text: str) -> None:
        """Log a note, level INFO."""
        self._logger.info(text)

    def warn(self, text: str) -> None:
        """Log a warning."""
        self._logger.warning(text)

    def epoch(self, figures: Mapping[str, float]) -> None:
        """Log the figures of an epoch, level INFO."""
        self._logger.info("epoch %s", dict(figures))


def choose_observer(given: Observer | None, quiet: bool) -> Observer:
    """Return the caller's observer, a silent one, or the one that suits a terminal, a notebook or a script."""
    if given is not None or quiet:
        return given or Observer()
    from rich.console import Console

    from cnn_tl.cli.terminal.bars import NotebookObserver, TerminalObserver

    screen = Console(highlight=False, soft_wrap=True, stderr=True)
    if screen.is_jupyter:
        return NotebookObserver(screen)
    return TerminalObserver(screen) if screen.is_interactive else _LoggingObserver()

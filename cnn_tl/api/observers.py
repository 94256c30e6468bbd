"""Where a call comes from: who looks at its progress, and what must be left as it was."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from cnn_tl.core.progress import Observer


@contextmanager
def calm() -> Iterator[None]:
    """Keep from the caller what others murmur about metadata and widgets, and leave the filters as they were."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.\w+ImagePlugin")
        warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's, in a notebook without widgets
        yield


class _Logged(Observer):
    """Tells the logger "cnn_tl" where nobody looks at a screen: Python shows its warnings, unless told otherwise."""

    _logger = logging.getLogger("cnn_tl")

    def note(self, text: str) -> None:
        """Log it for who asks for it."""
        self._logger.info(text)

    def warn(self, text: str) -> None:
        """Log it."""
        self._logger.warning(text)

    def epoch(self, figures: Mapping[str, float]) -> None:
        """Log its figures for who asks for them."""
        self._logger.info("epoch %s", dict(figures))


def observer_here(chosen: Observer | None, quiet: bool) -> Observer:
    """Return the observer that was given, or what suits the place where this runs."""
    if chosen is not None or quiet:
        return chosen or Observer()
    from rich.console import Console

    from cnn_tl.cli.terminal.bars import TerminalObserver
    from cnn_tl.cli.terminal.notebook import NotebookObserver

    screen = Console(highlight=False, soft_wrap=True, stderr=True)
    if screen.is_jupyter:
        return NotebookObserver(screen)
    return TerminalObserver(screen) if screen.is_interactive else _Logged()

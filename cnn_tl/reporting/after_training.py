"""The report that `train` writes at its end: without heat maps, and within a budget of time."""

from __future__ import annotations

import time
from pathlib import Path

from cnn_tl.training.result import Finished

WRITING = 0.4
"""The share of the budget that is kept for reading the run's files and for making and writing the page."""


def write_report_of(output: Path, finished: Finished, seconds: float) -> None:
    """Write the page of a run that has just finished; its result need not be on disk yet.

    Raises:
        ArtefactError, ResourceError: a file of the run is damaged, or the page cannot be written.
    """
    from cnn_tl.reporting.report import PageOptions, report_of_finished, write_report

    deadline = time.monotonic() + (1 - WRITING) * seconds
    write_report(report_of_finished(finished, PageOptions(heat_maps=False, deadline=deadline)), output)

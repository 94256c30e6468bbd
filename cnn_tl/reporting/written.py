"""Write the report of a run where it is wanted: what the command and `cnn_tl.report` do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnn_tl.core.errors import printable
from cnn_tl.metrics.figures import Figures
from cnn_tl.pages.report import as_json
from cnn_tl.reporting.own_pages import require_page_place
from cnn_tl.reporting.report import PageOptions, report_of_run, write_report


@dataclass(frozen=True)
class ReportWritten:
    """A report on disk.

    Attributes:
        path: the HTML file.
        verdict: three sentences: how good, how sure, what would help most.
        figures: all figures.
        facts: all that the page holds as JSON, the figures too.
        notes: what the page lacks, and why.
    """

    path: Path
    verdict: tuple[str, str, str]
    figures: Figures
    facts: dict[str, Any]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        """Return for example `<ReportWritten runs/photos-freeze/report.html>`."""
        return f"<ReportWritten {printable(self.path)}>"

    def __fspath__(self) -> str:
        """Return the path of the page."""
        return str(self.path)

    def to_dict(self) -> dict[str, Any]:
        """Return what the page holds as JSON."""
        return self.facts


def report(run: Path, output: Path | None, options: PageOptions) -> ReportWritten:
    """Write the report of a finished run.

    Args:
        output: the HTML file; None: report.html in the run folder.

    Raises:
        ArtefactError: there is no such run, it has not finished, or a file of it is damaged.
        ResourceError: the file cannot be written.
        UsageError: the file exists and is no page of cnn-tl, or its name does not end in .html.
    """
    path = output or run / "report.html"
    if output is not None or run.is_dir():
        require_page_place(path)
    page = report_of_run(run, options)
    write_report(page, path)
    return ReportWritten(path, page.verdict, page.figures, as_json(page), page.notes)

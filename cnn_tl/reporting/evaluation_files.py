"""The files of an evaluation: the wrong images, all answers, and the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cnn_tl.core import files
from cnn_tl.core.device import DeviceName
from cnn_tl.core.errors import UsageError, printable
from cnn_tl.evaluating.evaluate import Evaluation
from cnn_tl.evaluating.wrong_images import wrong_images_csv
from cnn_tl.inference.safe_output import require_harmless, require_writable
from cnn_tl.metrics.answer_lines import answer_lines
from cnn_tl.reporting.own_pages import require_page_place


@dataclass(frozen=True)
class EvaluationFiles:
    """Where to write what an evaluation found; None: not wanted.

    Attributes:
        wrong: every wrong image, as CSV. answers: every answer, as JSON lines. report: the page, as HTML.
    """

    wrong: Path | None = None
    answers: Path | None = None
    report: Path | None = None

    @property
    def need_digests(self) -> bool:
        """Whether a file names the digests of images."""
        return self.wrong is not None or self.answers is not None

    def require_places(self, model: Path) -> None:
        """Refuse paths that cannot be written, or that hold something else, before any work is done.

        Raises:
            UsageError: a path belongs to a model, a run or an image, is a folder, or is named twice.
            ResourceError: a folder is not writable.
        """
        named = {"--wrong": self.wrong, "--answers": self.answers, "--report": self.report}
        seen: dict[Path, str] = {}
        for option, path in named.items():
            if path is None:
                continue
            if other := seen.get(path.resolve()):
                raise UsageError(f"{other} and {option} are the same file, {printable(path)}; choose another name")
            seen[path.resolve()] = option
            if option == "--report":
                require_page_place(path, option)
            else:
                require_harmless(path, model, option)
                require_writable(path, option)

    def write(self, found: Evaluation, device: DeviceName = "auto") -> tuple[str, ...]:
        """Write the files, and return what the page lacks, and why.

        Args:
            device: where the model runs for the heat maps of the page.

        Raises:
            ResourceError: the disk is full or a folder is not writable.
        """
        if self.wrong is not None:
            files.write_text(self.wrong, wrong_images_csv(found.answers))
        if self.answers is not None:
            files.write_text(self.answers, "".join(answer_lines(found.answers)))
        if self.report is None:
            return ()
        from cnn_tl.reporting.report import PageOptions, report_of_evaluation, write_report

        page = report_of_evaluation(found, PageOptions(device=device))
        write_report(page, self.report)
        return page.notes

"""The images that a model got wrong as a table for spreadsheets, the most confident mistakes first."""

from __future__ import annotations

import csv
import io
import math

import numpy as np

from cnn_tl.metrics.answers import LabelledAnswers

COLUMNS = ("file", "label", "predicted", "probability", "probability_of_label", "sha256")

_BEGINS_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def wrong_images_csv(answers: LabelledAnswers) -> str:
    """Return CSV (RFC 4180, so with CRLF), one row for each wrong image, probabilities with six digits.

    A spreadsheet would compute a cell that begins as a formula does, and anyone can name a folder so. Such a cell gets
    an apostrophe in front; the exact names are in `answer_lines`.
    """
    stream = io.StringIO(newline="")
    table = csv.writer(stream)
    table.writerow(COLUMNS)
    wrong = np.flatnonzero(~answers.right)
    of_label_N = answers.of_label
    for i in wrong[np.argsort(-answers.confidence[wrong], kind="stable")].tolist():
        table.writerow(
            [
                _as_text(answers.files[i]),
                _as_text(answers.classes[answers.labels[i]]),
                _as_text(answers.classes[answers.predicted[i]]),
                f"{answers.confidence[i]:.6f}",
                "" if math.isnan(of_label_N[i]) else f"{of_label_N[i]:.6f}",
                answers.sha256[i],
            ]
        )
    return stream.getvalue()


def _as_text(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_BEGINS_FORMULA) else cell

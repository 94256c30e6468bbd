"""Answers to labelled images as JSON lines: validation.jsonl of a run, and `evaluate --answers`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_tl.metrics.answers import LabelledAnswers


def answer_lines(answers: LabelledAnswers) -> Iterable[str]:
    """Yield one JSON line for each image; probabilities and distances rounded to six digits, the loss to nine.

    Keys: file, label, predicted, probability; loss; distance; top, the most probable classes and their probabilities,
    best first; sha256, where it is known.
    """
    classes = answers.classes
    columns = zip(
        answers.files,
        answers.labels.tolist(),
        answers.ranked.tolist(),
        answers.probabilities.tolist(),
        answers.losses.tolist(),
        answers.distances.tolist(),
        answers.sha256,
        strict=True,
    )
    for file, label, ranked, probabilities, loss, distance, digest in columns:
        top = [[classes[k], round(share, 6)] for k, share in zip(ranked, probabilities, strict=True)]
        line = {"file": file, "label": classes[label], "predicted": top[0][0], "probability": top[0][1]}
        line |= {"loss": float(f"{loss:.9g}"), "distance": round(distance, 6), "top": top}
        yield json.dumps(line | ({"sha256": digest} if digest else {})) + "\n"


def answers_from_lines(
    lines: Iterable[str | bytes], classes: Sequence[str] | None = None, sha256: Mapping[str, str] | None = None
) -> LabelledAnswers:
    """Return the answers that `answer_lines` wrote, also in an older version: without losses and distances.

    Args:
        classes: all classes of the model, in order; None: those that the lines name.
        sha256: file -> digest, for lines that do not hold it.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: a line is damaged, or names another class.
    """
    rows, digests = [json.loads(line) for line in lines], sha256 or {}
    tops = [row.get("top") or [[row["predicted"], row["probability"]]] for row in rows]
    if classes is None:
        classes = sorted({row["label"] for row in rows} | {name for top in tops for name, _ in top})
    if not all(isinstance(row["file"], str) for row in rows):
        raise TypeError("a name of a file is not text")
    index = {name: k for k, name in enumerate(classes)}
    depth = len(tops[0]) if tops else 1
    shape = (len(rows), depth)
    probabilities = np.array([[share for _, share in top] for top in tops], np.float64).reshape(shape)
    if not np.all((probabilities >= 0) & (probabilities <= 1)):
        raise ValueError("a probability is not between 0 and 1")
    return LabelledAnswers(
        classes=tuple(classes),
        files=tuple(row["file"] for row in rows),
        sha256=tuple(row.get("sha256") or digests.get(row["file"], "") for row in rows),
        labels=np.array([index[row["label"]] for row in rows], np.int64),
        ranked=np.array([[index[name] for name, _ in top] for top in tops], np.int64).reshape(shape),
        probabilities=probabilities,
        losses=np.array([_number(row, "loss") for row in rows], np.float64),
        distances=np.array([_number(row, "distance") for row in rows], np.float64),
    )


def _number(row: Mapping[str, Any], key: str) -> float:
    return float(row.get(key, math.nan))

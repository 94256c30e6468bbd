"""The answers of a finished run to its validation images, as validation.jsonl holds them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.data.manifest import Manifest
from cnn_tl.metrics.answers import LabelledAnswers
from cnn_tl.training.run_folder import RunFolder


def answers_of_run(run: RunFolder) -> LabelledAnswers:
    """Return the answers of a run; older ones have no losses and distances, and only the most probable class.

    Raises:
        ArtefactError: a file is missing or damaged.
    """
    manifest = Manifest.from_json(files.read_json(run.manifest))
    try:
        lines = [json.loads(line) for line in files.read_bytes(run.validation).decode("utf-8").splitlines()]
        return _answers(lines, manifest)
    except FileNotFoundError as error:
        raise ArtefactError(f"{printable(run.validation)} is missing") from error
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{printable(run.validation)} is damaged: {error}") from error


def _answers(lines: Sequence[Mapping[str, Any]], manifest: Manifest) -> LabelledAnswers:
    index = {name: k for k, name in enumerate(manifest.classes)}
    sha256 = {image.path: image.sha256 for image in manifest.of("val")}
    tops = [line.get("top") or [[line["predicted"], line["probability"]]] for line in lines]
    return LabelledAnswers(
        classes=manifest.classes,
        files=tuple(line["file"] for line in lines),
        sha256=tuple(sha256.get(line["file"], "") for line in lines),
        labels=np.array([index[line["label"]] for line in lines], dtype=np.int64),
        ranked=np.array([[index[name] for name, _ in top] for top in tops], dtype=np.int64),
        probabilities=np.array([[share for _, share in top] for top in tops], dtype=np.float64),
        losses=np.array([line.get("loss", math.nan) for line in lines], dtype=np.float64),
        distances=np.array([line.get("distance", math.nan) for line in lines], dtype=np.float64),
    )

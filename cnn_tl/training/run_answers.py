"""The answers of a finished run to its validation images, as validation.jsonl holds them."""

from __future__ import annotations

from cnn_tl.core import files
from cnn_tl.core.errors import ArtefactError, printable
from cnn_tl.data.manifest import Manifest
from cnn_tl.metrics.answer_lines import answers_from_lines
from cnn_tl.metrics.answers import LabelledAnswers
from cnn_tl.training.run_folder import RunFolder


def answers_of_run(run: RunFolder, manifest: Manifest | None = None) -> LabelledAnswers:
    """Return the answers of a run; older ones have no losses and distances, and only the most probable class.

    Args:
        manifest: that of the run, where it has been read already.

    Raises:
        ArtefactError: a file is missing or damaged.
    """
    manifest = manifest or Manifest.from_json(files.read_json(run.manifest))
    digests = {image.path: image.sha256 for image in manifest.of("val")}
    try:
        answers = answers_from_lines(files.read_bytes(run.validation).splitlines(), manifest.classes, digests)
    except FileNotFoundError as error:
        raise ArtefactError(f"{printable(run.validation)} is missing") from error
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtefactError(f"{printable(run.validation)} is damaged: {error}") from error
    if sorted(answers.files) != sorted(digests):  # a file cut between two lines would pass for a smaller, other result
        raise ArtefactError(
            f"{printable(run.validation)} is damaged: it does not hold one answer to each of the {len(digests):,} "
            "validation images"
        )
    return answers

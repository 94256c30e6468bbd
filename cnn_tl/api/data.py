"""Understanding data: `cnn_tl.examine`, what `cnn-tl doctor` does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.api.keywords import PathLike, path_text
from cnn_tl.api.messages import RECIPE_KEYS, with_keywords
from cnn_tl.api.observers import choose_observer, quiet_dependencies
from cnn_tl.api.subject import subject_of
from cnn_tl.core.imports import require_working_directory
from cnn_tl.core.progress import Observer

if TYPE_CHECKING:
    from cnn_tl.doctor.diagnosis import Diagnosis


@with_keywords
def examine(
    source: PathLike,
    output: PathLike | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    weights: PathLike | None = None,
    device: str | None = None,
    workers: int | None = None,
    seed: int | None = None,
    quiet: bool = False,
    observer: Observer | None = None,
    **sections: Any,
) -> Diagnosis:
    """Find what spoils a model in a folder of images: twins, leaks, wrong labels, shortcuts, series, outliers.

        found = cnn_tl.examine("photos", "photos-doctor")
        for finding in found.findings:
            print(finding.kind, finding.count, finding.text, finding.example, finding.advice)

    No image is moved, changed or deleted.

    Args:
        source: class folders, or such folders inside train, val and test; or a run folder or the result of `train`,
            whose data are then examined.
        output: a folder for lists of what was found, and a page.
        model, weights, device, workers, seed, sections: as in `train`; of a run, its recipe has them.
        quiet, observer: as in `predict`.

    Returns:
        The findings, the most harmful first, and all that the screens have found.

    Raises:
        UsageError: a keyword has an impossible value, or the output holds other files.
        DataError: there are no class folders, or too few images can be read.
        ArtefactError, ResourceError: of the network, of its weights, of the run, or of the device.
    """
    require_working_directory()
    given = {name: value for name, value in locals().items() if name in RECIPE_KEYS and value is not None}
    place = None if output is None else Path(path_text(output, "output"))
    from cnn_tl.doctor.examine import examined
    from cnn_tl.doctor.written import remember, require_folder, write_folder

    name, subject = subject_of(source, given, sections)
    if place is not None:
        require_folder(place, subject.recipe.data.folder)
    with quiet_dependencies(), examined(subject, name, choose_observer(observer, quiet)) as found:
        if place is not None:
            write_folder(found, place)
        remember(found, place)
        return found

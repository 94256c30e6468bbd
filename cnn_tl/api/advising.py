"""Advice on the next hour of work: `cnn_tl.learning_curve` and `cnn_tl.recommend`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_tl.api.keywords import PathLike, check_values, path_text, recipe_of
from cnn_tl.api.messages import RECIPE_KEYS, with_keywords
from cnn_tl.api.observers import choose_observer, quiet_dependencies
from cnn_tl.api.subject import subject_of
from cnn_tl.core.errors import UsageError
from cnn_tl.core.imports import require_working_directory
from cnn_tl.core.progress import Observer

if TYPE_CHECKING:
    from cnn_tl.advising.learning_curve.report import LearningCurve
    from cnn_tl.advising.recommend.result import Recommendation


@with_keywords
def learning_curve(
    source: PathLike,
    output: PathLike | None = None,
    *,
    model: str | Mapping[str, Any] | None = None,
    weights: PathLike | None = None,
    image_size: int | None = None,
    device: str | None = None,
    workers: int | None = None,
    seed: int | None = None,
    quiet: bool = False,
    observer: Observer | None = None,
    **sections: Any,
) -> LearningCurve:
    """Say what more images would buy: accuracy by the number of images, measured, and foretold for 2 and 4 times.

        found = cnn_tl.learning_curve("photos")
        print(found.verdict)
        for point in found.curve.points:
            print(point.images, point.accuracy, point.interval)

    No image is changed.

    Args:
        source: class folders, or such folders inside train, val and test; or a run folder or the result of `train`,
            whose data, splits and corrections are then used.
        output: a PNG file for the plot.
        model, weights, image_size, device, workers, seed, sections: as in `train`; of a run, its recipe has them.
        quiet, observer: as in `predict`.

    Returns:
        The curve, what it foretells, its check, and the gain of each class. In a finished run it is also saved, for
        its report.

    Raises:
        UsageError: a keyword has an impossible value, or the output would overwrite another file.
        DataError: there are no class folders, or too few images.
        ArtefactError, ResourceError: of the network, of its weights, of the run, or of the device.
    """
    require_working_directory()
    given = {name: value for name, value in locals().items() if name in RECIPE_KEYS and value is not None}
    plot = None if output is None else Path(path_text(output, "output"))
    from cnn_tl.advising.learning_curve.report import learning_curve as run_learning_curve
    from cnn_tl.inference.safe_output import require_plot_place

    name, subject = subject_of(source, given, sections)
    if plot is not None:
        require_plot_place(plot)
    with quiet_dependencies():
        found = run_learning_curve(subject, name, choose_observer(observer, quiet))
        if plot is not None:
            from cnn_tl.plots.learning_curve import plot_learning_curve

            plot_learning_curve(plot, found.to_dict())
    return found


@with_keywords
def recommend(
    data: PathLike | Mapping[str, Any],
    models: str | Sequence[str] = (),
    *,
    image_sizes: Sequence[int] = (),
    budget: float = 300.0,
    limit: int = 2000,
    head: str | Mapping[str, Any] | None = None,
    device: str | None = None,
    workers: int | None = None,
    seed: int | None = None,
    quiet: bool = False,
    observer: Observer | None = None,
    **sections: Any,
) -> Recommendation:
    """Compare backbones on a sample of the training images, and recommend one.

        found = cnn_tl.recommend("photos")
        print(found.reason)
        result = cnn_tl.train("photos", **found.settings)

    The features are kept, so that `train` need not compute them again. Images of val and test are not looked at.

    Args:
        data: as in `train`.
        models: names, each with or without `=FILE` for a file with its weights; empty: the default backbones whose
            packages are installed.
        image_sizes: sides in pixels at which each is tried; empty: each model's own.
        budget: seconds that this may take.
        limit: the most images on which they are compared.
        head, device, workers, seed, sections: as in `train`.
        quiet, observer: as in `predict`.

    Returns:
        A row for each backbone, the recommended one, and why.

    Raises:
        UsageError: a keyword has an impossible value, or there is no such model.
        DataError: there are no class folders, or too few images can be read.
        ArtefactError, ResourceError: of the networks, of their weights, or of the device.
    """
    require_working_directory()
    given = {name: value for name, value in locals().items() if name in RECIPE_KEYS and value is not None}
    if not budget > 0:
        raise UsageError(f"budget: got {budget!r}, allowed seconds above 0")
    check_values("auto", limit=limit)
    from cnn_tl.advising.recommend.recommend import recipe_for
    from cnn_tl.advising.recommend.recommend import recommend as run_recommend
    from cnn_tl.doctor.twin_groups import find_twin_groups

    recipe = recipe_for(recipe_of(data, None, given, {**sections}))
    named = [models] if isinstance(models, str) else list(models)
    with quiet_dependencies():
        return run_recommend(
            recipe, named, list(image_sizes), budget=budget, limit=limit,
            observer=choose_observer(observer, quiet), find_twins=find_twin_groups,
        )  # fmt: skip

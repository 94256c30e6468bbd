"""Groups of twins for `data.groups: twins`: `train` passes this on to the scan of its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnn_tl.core.progress import Observer, Relay

if TYPE_CHECKING:
    from cnn_tl.data.manifest import Manifest
    from cnn_tl.recipe import ResolvedRecipe


class _TasksOnly(Relay):
    """Passes on the progress, and no remark: the run itself remarks on the same images."""

    def note(self, text: str) -> None:
        """Keep it back."""

    def warn(self, text: str) -> None:
        """Keep it back."""


def find_twin_groups(manifest: Manifest, observer: Observer, recipe: ResolvedRecipe) -> dict[str, str]:
    """Return image -> name of its group, of the images that have a twin, as `cnn-tl doctor` finds them.

    The features are those of the default backbone, whatever the run trains, so that every run splits the same images
    in the same way.

    Args:
        manifest: all images.
        recipe: whose device, workers, cache and limits of images are used.

    Raises:
        DataError: too few images can be read.
        ResourceError, ArtefactError: of the network, its weights, or the device.
    """
    # only here: every run passes this function on, and hardly any calls it
    import numpy as np

    from cnn_tl.doctor.collecting import collected
    from cnn_tl.doctor.subject import features_only
    from cnn_tl.doctor.twins import find_twins

    made = features_only(recipe, own_backbone=False)
    quiet = _TasksOnly(observer)
    with collected(made, quiet, manifest) as found, quiet.task("finding twins", None):
        images = found.collection
        groups = find_twins(images).groups
    return {images.files[index]: f"twins {groups[index]}" for index in np.flatnonzero(groups >= 0).tolist()}

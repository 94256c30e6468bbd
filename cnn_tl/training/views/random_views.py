"""Random views of training images in batches, on the device where their sources lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from cnn_tl.core.preprocessing import Preprocessing
from cnn_tl.data.views.augment import Augmentation, View
from cnn_tl.data.views.transforms import mean_colour
from cnn_tl.training.views.crops import Crops
from cnn_tl.training.views.finishing import finished
from cnn_tl.training.views.policies import Policies
from cnn_tl.training.views.source_batch import SourceBatch

AT_ONCE = 256
"""Images that are computed together: enough to fill a GPU, and few enough for its memory (4 MiB each at 224 px)."""


class RandomViews:
    """Computes views that `data/views/augment.py` has drawn; nothing waits for the device.

    Boxes, flips and operations are those that Pillow would perform; single pixels differ by rounding. A view is a
    function of its source and of what was drawn, to the bit: the other images of the batch do not count.

    Args:
        precision: of the matrix products; None: float16 on CUDA, else float32.
    """

    def __init__(
        self,
        spec: Preprocessing,
        settings: Augmentation,
        device: torch.device,
        precision: torch.dtype | None = None,
    ) -> None:
        self._device = device
        default = torch.float16 if device.type == "cuda" else torch.float32
        self._crops = Crops(spec, settings, device, precision or default)
        self._colour = torch.tensor(mean_colour(spec), dtype=torch.uint8, device=device)
        self._policies = Policies(spec.width, spec.height, self._colour)

    def __call__(self, sources: SourceBatch, drawn: Sequence[View]) -> Tensor:
        """Return the views of the sources, uint8 pixels [N, H, W, 3] on the device.

        Args:
            sources: of at most `source_side`^2 pixels each.
            drawn: one view for each of them.
        """
        with torch.no_grad(), torch.autocast(self._device.type, enabled=False):
            parts = [slice(start, start + AT_ONCE) for start in range(0, len(drawn), AT_ONCE)]
            views = [self._some(_part(sources, part), drawn[part]) for part in parts]
            return views[0] if len(views) == 1 else torch.cat(views)

    def _some(self, sources: SourceBatch, drawn: Sequence[View]) -> Tensor:
        pixels_NHW3 = self._crops(sources, drawn)
        pixels_NHW3 = self._policies(pixels_NHW3, [view.operations for view in drawn])
        return finished(pixels_NHW3, [view.finish for view in drawn], self._colour)


def _part(sources: SourceBatch, part: slice) -> SourceBatch:
    return replace(sources, starts=sources.starts[part], heights=sources.heights[part], widths=sources.widths[part])

"""Counts and times of computing features, in one process or merged from several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cnn_tl.core.cpu import default_workers
from cnn_tl.core.errors import BadImageError
from cnn_tl.data.manifest import ImageRecord
from cnn_tl.training.dataset import Dataset


@dataclass
class EmbeddingStats:
    """Counts and times of computing features.

    Attributes:
        rows: features computed.
        broken: images that could not be read.
        decode_seconds: CPU time of all workers.
        forward_seconds: time in the network.
        seconds: wall time from the first batch to the last, without loading torch.
    """

    rows: int = 0
    broken: dict[ImageRecord, BadImageError] = field(default_factory=dict)
    decode_seconds: float = 0.0
    forward_seconds: float = 0.0
    seconds: float = 0.0

    def rates(self, workers: int) -> dict[str, float]:
        """Return images per second of the workers alone, of the network alone, and of both together.

        The rate of the workers is computed from their CPU time, so workers beyond the number of cores do not raise it.
        """
        if not self.rows:
            return {}
        at_once = min(workers, default_workers())
        return {
            "decode_images_per_second": round(self.rows * at_once / max(self.decode_seconds, 1e-9), 1),
            "forward_images_per_second": round(self.rows / max(self.forward_seconds, 1e-9), 1),
            "images_per_second": round(self.rows / max(self.seconds, 1e-9), 1),
        }

    def broken_among(self, dataset: Dataset, images: Sequence[ImageRecord]) -> list[tuple[ImageRecord, BadImageError]]:
        """Return the images that could not be read, including copies of them."""
        reasons = {image.sha256: error.reason for image, error in self.broken.items()}
        return [
            (image, BadImageError(dataset.manifest.file(image), reasons[image.sha256]))
            for image in dict.fromkeys(images)
            if image.sha256 in reasons
        ]


def merged(shares: Sequence[EmbeddingStats]) -> EmbeddingStats:
    """Merge the statistics of processes that worked in parallel."""
    broken: dict[ImageRecord, BadImageError] = {}
    for share in shares:
        broken |= share.broken
    return EmbeddingStats(
        rows=sum(share.rows for share in shares),
        broken=broken,
        decode_seconds=sum(share.decode_seconds for share in shares),
        forward_seconds=max(share.forward_seconds for share in shares),
        seconds=max(share.seconds for share in shares),
    )

"""Handwritten digits that come with scikit-learn: 1,797 grey 8 x 8 scans, no download.

The set is small enough to train on a CPU in seconds, which is what it is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.sources import Sample, Source, refuse_options

BRIGHTEST = 16  # the scans count dark pixels in 4 x 4 blocks


class Digits:
    """`images` is uint8 (count, 8, 8), `labels` is int (count,)."""

    name = "digits"
    classes = tuple("0123456789")
    native_resolution = 16
    native_channels = 1

    def __init__(self, images: npt.NDArray[np.uint8], labels: list[int]) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Sample]:
        for position, (image, label) in enumerate(zip(self.images, self.labels, strict=True)):
            yield Sample(str(position), image, label)


def open_source(root: Path | None, split: str) -> Source:
    """Raises ConfigError for a root or a split other than train: the set has neither."""
    refuse_options("digits", root, split, "All its images are in train.")
    from sklearn.datasets import load_digits

    scans = load_digits()
    images = np.rint(scans.images * (255 / BRIGHTEST)).astype(np.uint8)
    return Digits(images, scans.target.tolist())

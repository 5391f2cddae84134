"""Handwritten digits that come with scikit-learn: 1,797 grey 8 x 8 scans, no download.

The set is small enough to train on a CPU in seconds, which is what it is for.
"""

from __future__ import annotations

import numpy as np

from pipeline.data.sources import Source, Spec
from pipeline.data.sources.in_memory import InMemory

BRIGHTEST = 16  # the scans count dark pixels in 4 x 4 blocks
ENLARGED = (16, 16)


class Digits(InMemory):
    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        scans = load_digits()
        images = np.rint(scans.images * (255 / BRIGHTEST)).astype(np.uint8)
        super().__init__("digits", images, scans.target.astype(np.int64), tuple("0123456789"))
        # Networks of strided layers want more than 8 pixels.
        self.native_resolution = ENLARGED


def open_source(spec: Spec) -> Source:
    """Raises ConfigError for a root or a split other than train: the set has neither."""
    spec.refuse_root()
    spec.refuse_splits("All its images are in train.")
    return Digits()

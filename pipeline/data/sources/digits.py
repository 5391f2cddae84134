"""The handwritten digits of scikit-learn: 1,797 grey 8 x 8 scans, no download.

The set is small enough to train on a CPU in seconds.
"""

from __future__ import annotations

import numpy as np

from pipeline.data.sources import Source, Spec
from pipeline.data.sources.in_memory import InMemory

BRIGHTEST = 16  # the scans count the dark pixels of 4 x 4 blocks
ENLARGED = (16, 16)


class Digits(InMemory):
    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        scans = load_digits()
        images = np.rint(scans.images * (255 / BRIGHTEST)).astype(np.uint8)
        super().__init__("digits", images, scans.target.astype(np.int64), tuple("0123456789"))
        # Networks with strided layers need more than 8 pixels.
        self.native_resolution = ENLARGED


def open_source(spec: Spec) -> Source:
    """Open the digits. Raises ConfigError if a root or a split is given."""
    spec.refuse_root()
    spec.refuse_splits("All its images are in train.")
    return Digits()

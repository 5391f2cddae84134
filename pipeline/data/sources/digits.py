"""Handwritten digits that come with scikit-learn: 1,797 grey 8 x 8 scans, no download.

The set is small enough to train on a CPU in seconds, which is what it is for.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.data.sources import Source, refuse_options
from pipeline.data.sources.digit_set import DigitSet

BRIGHTEST = 16  # the scans count dark pixels in 4 x 4 blocks


def open_source(root: Path | None, split: str) -> Source:
    """Raises ConfigError for a root or a split other than train: the set has neither."""
    refuse_options("digits", root, split, "All its images are in train.")
    from sklearn.datasets import load_digits

    scans = load_digits()
    images = np.rint(scans.images * (255 / BRIGHTEST)).astype(np.uint8)
    return DigitSet("digits", 16, images, scans.target.tolist())

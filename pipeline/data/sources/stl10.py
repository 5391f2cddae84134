"""STL-10: colour 96 x 96 photos of ten classes, 5,000 train, 8,000 test, and 100,000 unlabeled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.sources import Source, Spec
from pipeline.data.sources.in_memory import InMemory
from pipeline.data.sources.torchvision_sets import Files, open_with_torchvision

FILES = Files(
    "STL10", "stl10_binary", ("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin")
)
# In the order of the labels. torchvision reads them from a file whose hash it does not compare.
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def open_source(spec: Spec) -> Source:
    """Open the files under `root/stl10_binary`; without a root, download them once (2.6 GB).

    Raises ConfigError for a split other than train, test and unlabeled, DataError where the files are
    missing or damaged, or the download fails.
    """
    from torchvision.datasets import STL10

    spec.check_split(("train", "test", "unlabeled"))

    def read(root: Path, download: bool) -> Any:
        return STL10(root, split=spec.split, download=download)

    data = open_with_torchvision(spec, FILES, read)
    images, name = data.data.transpose(0, 2, 3, 1), f"stl10-{spec.split}"
    if spec.split == "unlabeled":
        return InMemory(name, images)
    # As uint8, the labels of files that count from 0 and not from 1 would have become 255, a class too many.
    return InMemory(name, images, data.labels.astype(np.int64), CLASSES)

"""STL-10: colour photos of 96 x 96 in ten classes, 5,000 train and 8,000 test, and 100,000 unlabeled."""

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
# In the order of the labels. Not read with torchvision, which does not check the hash of their file.
CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def open_source(spec: Spec) -> Source:
    """Open the files in `root/stl10_binary`; without a root, download them once (2.6 GB).

    Raises ConfigError for a split other than train, test and unlabeled, and DataError if the files are missing or
    damaged or if the download fails.
    """
    from torchvision.datasets import STL10

    spec.check_split(("train", "test", "unlabeled"))

    def read(root: Path, download: bool) -> Any:
        return STL10(root, split=spec.split, download=download)

    data = open_with_torchvision(spec, FILES, read)
    images, name = data.data.transpose(0, 2, 3, 1), f"stl10-{spec.split}"
    if spec.split == "unlabeled":
        return InMemory(name, images)
    # torchvision subtracts 1 as uint8: labels of a file that wrongly starts at 0 become 255 and are refused.
    return InMemory(name, images, data.labels.astype(np.int64), CLASSES)

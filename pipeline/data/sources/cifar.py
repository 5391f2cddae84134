"""CIFAR-10 and CIFAR-100: colour photos of 32 x 32, 50,000 train and 10,000 test, read with torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.sources import Source, Spec
from pipeline.data.sources.in_memory import InMemory
from pipeline.data.sources.torchvision_sets import Files, open_with_torchvision

SETS = {
    "cifar10": Files(
        "CIFAR10",
        "cifar-10-batches-py",
        (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
    ),
    "cifar100": Files("CIFAR100", "cifar-100-python", ("train", "test", "meta")),
}


def open_source(spec: Spec) -> Source:
    """Open the files in `root/cifar-10-batches-py` or `root/cifar-100-python`; without a root, download them once.

    Raises ConfigError for a split other than train and test, and DataError if the files are missing or damaged or if
    the download fails.
    """
    import torchvision

    spec.check_split(("train", "test"))
    files = SETS[spec.name]
    make = getattr(torchvision.datasets, files.title)

    # The files are pickles, and loading a pickle can run any code. Never load them directly: torchvision's
    # constructor loads a file only after checking that it has the MD5 of the published file.
    def read(root: Path, download: bool) -> Any:
        return make(root, train=spec.split == "train", download=download)

    data = open_with_torchvision(spec, files, read)
    labels = np.array(data.targets, dtype=np.int64)
    return InMemory(f"{spec.name}-{spec.split}", data.data, labels, tuple(data.classes))

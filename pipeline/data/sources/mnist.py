"""MNIST and other sets in its format: grey 28 x 28 scans, train and test, read with torchvision.

mnist               handwritten digits: 60,000 train, 10,000 test
fashion-mnist       ten kinds of clothes: 60,000 train, 10,000 test
kmnist              ten cursive Japanese characters: 60,000 train, 10,000 test
emnist-balanced     47 letters and digits; also emnist-byclass, -bymerge, -letters, -digits, -mnist
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.sources import Source, Spec
from pipeline.data.sources.in_memory import InMemory
from pipeline.data.sources.torchvision_sets import Files, open_with_torchvision

TITLES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}
EMNIST = "emnist-"


def open_source(spec: Spec) -> Source:
    """Open the files in `root/MNIST/raw` or the like; without a root, download them once into the user's cache.

    Raises ConfigError for a split other than train and test, and DataError if the files are missing or damaged or if
    the download fails.
    """
    spec.check_split(("train", "test"))
    if spec.name.startswith(EMNIST):
        return _open_emnist(spec, spec.name.removeprefix(EMNIST))
    title = TITLES[spec.name]
    data = _open(spec, title, ("train", "t10k"))
    classes = tuple("0123456789") if title == "MNIST" else tuple(data.classes)
    return InMemory(_name(spec), data.data.numpy(), data.targets.numpy().astype(np.int64), classes)


def _open_emnist(spec: Spec, part: str) -> Source:
    data = _open(spec, "EMNIST", (f"emnist-{part}-{spec.split}",), split=part)
    # The images in its files are transposed.
    upright = np.ascontiguousarray(data.data.numpy().transpose(0, 2, 1))
    labels, classes = data.targets.numpy().astype(np.int64), tuple(data.classes)
    if part == "letters":
        # These labels start at 1; torchvision adds a class without images for 0.
        labels, classes = labels - 1, classes[1:]
    return InMemory(_name(spec), upright, labels, classes)


def _name(spec: Spec) -> str:
    return f"{spec.name}-{spec.split}"


def _open(spec: Spec, title: str, prefixes: tuple[str, ...], **options: Any) -> Any:
    import torchvision

    make = getattr(torchvision.datasets, title)
    names = [f"{part}-{kind}-ubyte" for part in prefixes for kind in ("images-idx3", "labels-idx1")]

    def read(root: Path, download: bool) -> Any:
        return make(root, train=spec.split == "train", download=download, **options)

    return open_with_torchvision(spec, Files(title, f"{title}/raw", names), read)

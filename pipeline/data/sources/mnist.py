"""MNIST: 60,000 (train) or 10,000 (test) grey 28 x 28 handwritten digits, read by torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.data.sources import Source
from pipeline.data.sources.digit_set import DigitSet
from pipeline.errors import ConfigError, DataError

SPLITS = ("train", "test")
FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))


def open_source(root: Path | None, split: str) -> Source:
    """Open the files under `root/MNIST/raw`; without a root, download them once into the user's cache.

    Raises DataError where the files are missing or damaged, or the download fails.
    """
    if split not in SPLITS:
        raise ConfigError(f"mnist has no {split} split; it has: {', '.join(SPLITS)}.")
    data = _open(root or Path.home() / ".cache" / "wgan-pipeline", split, download=root is None)
    images, labels = data.data.numpy(), data.targets.tolist()
    if len(images) != len(labels):
        raise DataError(
            f"{data.raw_folder} holds {len(images)} images but {len(labels)} labels. Copy its files again."
        )
    return DigitSet(f"mnist-{split}", 28, images, labels)


def _open(root: Path, split: str, download: bool) -> Any:
    from torchvision.datasets import MNIST

    try:
        return MNIST(root, train=split == "train", download=download)
    except (RuntimeError, AssertionError, ValueError, OSError, EOFError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(_explain(root / "MNIST" / "raw", download, reason)) from None


def _explain(raw: Path, download: bool, reason: str) -> str:
    if all((raw / name).is_file() for name in FILES):
        return (
            f"The MNIST files in {raw} are damaged ({reason}). Remove them, and copy or download them again."
        )
    if download:
        return (
            f"MNIST cannot be downloaded into {raw} ({reason}). Where there is no network, copy its four "
            "files from elsewhere to DIR/MNIST/raw and give --root DIR."
        )
    return (
        f"{raw} does not hold the four MNIST files ({', '.join(FILES)}). Copy them there, correct --root, or "
        "leave --root out to download them."
    )

"""CelebA: 202,599 photos of faces, aligned and cropped to 178 x 218 pixels, without labels."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.data.sources import Source, Spec
from pipeline.data.sources.folder import read_image_file
from pipeline.data.sources.torchvision_sets import Files, open_with_torchvision
from pipeline.errors import DataError
from pipeline.regular_files import read_regular
from pipeline.wording import counted

LARGEST_FILE = 1 << 26
IMAGES, PARTITION = "img_align_celeba", "list_eval_partition.txt"
FILES = Files("CelebA", "celeba", (IMAGES, PARTITION))
SPLITS = {"train": "0", "valid": "1", "test": "2"}
ALL = "all"
# File name and split. The names become paths, so they must not lead out of the folder.
LINE = re.compile(r"(\w+\.(?:jpg|png)) +([012])", re.ASCII)


class CelebA:
    """The faces of one split, in the order of the partition file."""

    classes: tuple[str, ...] = ()
    native_resolution: tuple[int, int] | None = (218, 178)
    native_channels = 3

    def __init__(self, folder: Path, split: str, names: list[str]) -> None:
        self.name, self.folder, self.names = f"celeba-{split}", folder, names

    def __len__(self) -> int:
        return len(self.names)

    def key(self, position: int) -> str:
        return self.names[position]

    def label(self, position: int) -> None:
        return None

    def read(self, position: int) -> bytes:
        return read_image_file(self.folder / IMAGES / self.key(position))


def open_source(spec: Spec) -> Source:
    """Open the images in `root/celeba/img_align_celeba`; without a root, download them once (1.4 GB).

    Of the set's text files, only list_eval_partition.txt is needed. Raises ConfigError for a split other than train,
    valid, test and all, and DataError if files are missing or damaged or if the download fails.
    """
    spec.check_split((*SPLITS, ALL))

    def read(root: Path, download: bool) -> Source:
        folder = root / FILES.folder
        if download and not all((folder / name).exists() for name in FILES.names):
            _download(root)
        return _open(folder, spec.split)

    return open_with_torchvision(spec, FILES, read)


def _download(root: Path) -> None:
    from torchvision.datasets import CelebA as Downloaded

    Downloaded(root, split=ALL, download=True)


def _open(folder: Path, split: str) -> CelebA:
    lines = read_regular(folder / PARTITION, LARGEST_FILE, within=folder).decode("ascii").splitlines()
    names = [name for name, number in map(_parse, lines) if split == ALL or number == SPLITS[split]]
    there = {file.name for file in (folder / IMAGES).iterdir()}
    missing = [name for name in names if name not in there]
    if missing:
        raise DataError(
            f"{folder / IMAGES} is not complete: {len(missing):,} of {counted(len(names), 'image')} of the {split} "
            f"split are missing, for example {missing[0]}. Unpack img_align_celeba.zip again."
        )
    if not names:
        raise DataError(f"{folder / PARTITION} lists no images of the {split} split. Copy it again.")
    return CelebA(folder, split, names)


def _parse(line: str) -> tuple[str, str]:
    match = LINE.fullmatch(line.strip())
    if match is None:
        raise ValueError(f"{PARTITION} has an invalid line {line!r}")
    return match[1], match[2]

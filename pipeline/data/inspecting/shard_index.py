"""Builds the index of a shard from its tar file: the place, the label and the checksum of each image."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline import stopping
from pipeline.data.format.codecs import EXTENSIONS, Encoding
from pipeline.data.format.indexes import Index
from pipeline.data.sources.labels import AUTO, LabelChoice
from pipeline.data.sources.members import unreadable
from pipeline.data.sources.samples import Asked, sort_samples
from pipeline.data.sources.tar_files import list_tar
from pipeline.errors import DataError
from pipeline.regular_files import open_regular

NPY_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class ShardIndex:
    """The content of a tar file: `rows` int64 (samples, 4), the keys in the same order, and the images' encoding."""

    rows: Index
    keys: tuple[str, ...]
    encoding: Encoding
    others: tuple[str, ...]
    """The members that are neither an image nor a label that is used."""


def index_shard(path: Path, ignores_others: bool = False, labels: LabelChoice = AUTO) -> ShardIndex:
    """Build the index of an uncompressed tar file of images and KEY.cls members.

    Members of other kinds are skipped without being read if `ignores_others`; otherwise they are an error. Raises
    DataError for all that `list_tar` and `sort_samples` refuse, if the images have several encodings, and if the file
    is truncated.
    """
    members = list_tar(path, within=path.parent)
    samples = sort_samples(members, Asked(labels))
    others = (*samples.others, *sorted(members.hidden))
    if others and not ignores_others:
        raise DataError(
            f"{path} holds {others[0]!r}, but a shard holds only images ({', '.join(EXTENSIONS)}) and KEY.cls. "
            "Make the shards again with `wgan shards make`."
        )
    if not samples.names:
        raise DataError(f"{path} holds no samples. Copy it again, or remove it.")
    encoding = only_encoding(path, samples.names)
    places = np.array([members.files[name] for name in samples.names], dtype=np.int64)
    numbers = np.array([label if isinstance(label, int) else -1 for label in samples.labels], dtype=np.int64)
    rows = index_rows(path, samples.names, np.column_stack([places, numbers]), encoding)
    return ShardIndex(rows, tuple(samples.keys), encoding, others)


def only_encoding(path: Path, names: Sequence[str]) -> Encoding:
    """The encoding of all images with these names. Raises DataError unless there is exactly one that shards have."""
    endings = {name.rpartition(".")[2].lower(): name for name in names}
    for ending, name in endings.items():
        if ending not in EXTENSIONS:
            raise DataError(
                f"{path} holds {name!r}, but the images of a shard are {', '.join(EXTENSIONS)}. Convert them with "
                "`wgan shards make`."
            )
    found = {EXTENSIONS[ending] for ending in endings}
    if len(found) != 1:
        raise DataError(
            f"{path} holds images of {len(found)} encodings ({', '.join(sorted(found))}), but a shard has only one. "
            "Convert them with `wgan shards make`."
        )
    return found.pop()


def index_rows(path: Path, names: Sequence[str], places: npt.NDArray[np.int64], encoding: Encoding) -> Index:
    """The rows of the index for images with these sizes, offsets and labels: int64 (count, 3), columns in this order.

    Raises DataError if an image cannot be read or, for raw images, is no array of pixels.
    """
    rows = np.empty((len(places), 4), dtype=np.int64)
    try:
        with open_regular(path, within=path.parent) as file:
            for row, (name, (size, offset, label)) in enumerate(zip(names, places.tolist(), strict=True)):
                stopping.check()
                file.seek(offset)
                content = file.read(size)
                skipped = _npy_header_bytes(path, name, content) if encoding == "raw" else 0
                checksum = zlib.crc32(memoryview(content)[skipped:])
                rows[row] = (offset + skipped, size - skipped, label, checksum)
    except OSError as error:
        raise unreadable(path, error) from None
    return rows


def _npy_header_bytes(path: Path, name: str, content: bytes) -> int:
    """The size of the header of a .npy file, after which the pixels begin."""
    start = 10 + int.from_bytes(content[8:10], "little")
    if not content.startswith(NPY_MAGIC + b"\1\0") or b"'|u1'" not in content[:start]:
        raise DataError(
            f"{path}: the image {name!r} is not a .npy file of uint8 in format version 1.0. Convert it with `wgan "
            "shards make`."
        )
    return start

"""The indexes of shards: where each image lies in its tar file, with its label and its checksum.

    NAME.npy     of a shard that this program made: int64 (count, 4), 32 bytes a sample
    NAME.index   of a tar file that somebody else made: 16 bytes a sample, after a header of 24 bytes

In memory both are the same `Index`. A compact row is (offset / 512, bytes, label, CRC-32), each of four bytes: contents
of tar files begin at blocks of 512 bytes, so files of up to 2 TiB can be indexed. If labels are words, the label of a
row is the place of its word in a list that follows the rows, so the indexes of other tar files need not be known.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pipeline.data.format.manifest import COPY, MAKE, Manifest, Shard
from pipeline.data.format.tar_writer import BLOCK
from pipeline.documents import Document, Many, parse_json
from pipeline.errors import DataError
from pipeline.foreign_text import printable
from pipeline.regular_files import open_regular
from pipeline.wording import counted

Index = npt.NDArray[np.int64]
"""int64 (count, 4), with the columns below."""

INDEX_COLUMNS = ("offset", "bytes", "label", "crc32")
OFFSET, SIZE, LABEL, CHECKSUM = range(4)
INDEX_HEADER_BYTES = 128
INDEX_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00\x76\x00\{'descr': '<i8', 'fortran_order': False, 'shape': \((\d{1,9}), 4\), \} *\n$"
)
"""What NumPy writes before the rows of an index: the only .npy header that is read."""

COMPACT = np.dtype([("block", "<u4"), ("bytes", "<u4"), ("label", "<i4"), ("crc32", "<u4")])
ENDING = ".index"
MAGIC = b"wganidx3"
_HEADER = struct.Struct("<8sQQ")
MOST_WORD_BYTES = 1 << 28
INDEX_AGAIN = "Index the tar files again with `wgan shards index`"
UNKNOWN_CLASS = f"which is no class of the manifest. {INDEX_AGAIN}."


class CompactIndex(NamedTuple):
    """The rows of a tar file's index. If there are `words`, a label is a place in them, and otherwise a number."""

    rows: Index
    words: tuple[str, ...] = ()


class _Words(Document):
    """The words of an index, as a list in an object."""

    words: Many[str] = Field(max_length=1_000_000)


def index_bytes(count: int) -> int:
    """The size in bytes of the index of a shard that this program made."""
    return INDEX_HEADER_BYTES + 8 * len(INDEX_COLUMNS) * count


def load_index(directory: Path, shard: Shard) -> Index:
    """Read the index of a shard. Raises DataError if it cannot be opened, or as `read_index` does."""
    path = directory / shard.index
    try:
        with open_regular(path, directory) as file:
            return read_index(file, shard, str(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}. {COPY}") from None


def read_index(file: IO[bytes], shard: Shard, path: str) -> Index:
    """Read the index of a shard from an open file; `path` is its name in messages.

    Raises DataError if it is not an index of that shard, or if it points outside the tar file.
    """
    columns = len(INDEX_COLUMNS)
    header = INDEX_HEADER.match(file.read(INDEX_HEADER_BYTES))
    if header is None:
        raise DataError(
            f"{path} is not a shard index: it does not begin as a .npy file of int64 (count, {columns}). {MAKE} again."
        )
    # One byte more than there should be. A header may say anything, so it does not decide how much is read.
    content = file.read(shard.count * columns * 8 + 1)
    if int(header[1]) != shard.count or len(content) != shard.count * columns * 8:
        raise DataError(
            f"{path} is cut short, or does not have the {counted(shard.count, 'row')} of the index of {shard.name}. "
            f"{MAKE} again."
        )
    index: Index = np.frombuffer(content, dtype="<i8").astype(np.int64, copy=False).reshape(-1, columns)
    _check_places(index, shard, path, MAKE)
    return index


def compact_index(rows: Index, words: Sequence[str] = ()) -> bytes:
    """The content of a compact index. `rows` have offsets that are multiples of 512, below 2 TiB."""
    packed = np.empty(len(rows), dtype=COMPACT)
    packed["block"] = rows[:, OFFSET] // BLOCK
    for column, name in ((SIZE, "bytes"), (LABEL, "label"), (CHECKSUM, "crc32")):
        packed[name] = rows[:, column]
    tail = json.dumps({"words": list(words)}).encode() if words else b""
    return _HEADER.pack(MAGIC, len(rows), len(tail)) + packed.tobytes() + tail


def read_compact_index(file: IO[bytes], shard: Shard, path: str) -> CompactIndex:
    """Read a compact index from an open file; `path` is its name in messages.

    Raises DataError if it is not the index of that shard, or if it points outside the tar file.
    """
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(MAGIC):
        raise DataError(f"{path} is not an index of a tar file. {INDEX_AGAIN}.")
    _, count, word_bytes = _HEADER.unpack(header)
    # One byte more than there should be. A header may say anything, so it does not decide how much is read.
    content = file.read(shard.count * COMPACT.itemsize)
    tail = file.read(min(word_bytes, MOST_WORD_BYTES) + 1)
    if count != shard.count or len(content) != count * COMPACT.itemsize or len(tail) != word_bytes:
        raise DataError(
            f"{path} is cut short, or does not have the {counted(shard.count, 'row')} of the index of {shard.name}. "
            f"{INDEX_AGAIN}."
        )
    packed = np.frombuffer(content, dtype=COMPACT)
    rows = np.empty((count, len(INDEX_COLUMNS)), dtype=np.int64)
    for column, name in enumerate(COMPACT.names or ()):
        rows[:, column] = packed[name]
    rows[:, OFFSET] *= BLOCK
    _check_places(rows, shard, path, INDEX_AGAIN)
    try:
        words = tuple(parse_json(tail, _Words).words) if tail else ()
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}. {INDEX_AGAIN}.") from None
    if words and rows[:, LABEL].max() >= len(words):
        raise DataError(f"{path} is damaged: it has a label that is none of its words. {INDEX_AGAIN}.")
    return CompactIndex(rows, words)


def with_classes(index: CompactIndex, manifest: Manifest, path: str) -> Index:
    """The rows with labels that are positions of the set's classes, -1 for images without one.

    Raises DataError if the manifest lacks a class.
    """
    labels = index.rows[:, LABEL]
    if not manifest.classes:
        labels[:] = -1
    elif manifest.are_words:
        numbers, places = np.unique(labels, return_inverse=True)
        names = [index.words[number] if index.words else str(number) for number in numbers.tolist()]
        classes = [manifest.class_places.get(name, -1) for name in names]
        if lost := [name for name, n, place in zip(names, numbers, classes, strict=True) if place < 0 <= n]:
            raise DataError(f"{path} has the label {printable(lost[0])!r}, {UNKNOWN_CLASS}")
        labels[:] = np.where(labels < 0, -1, np.array(classes, dtype=np.int64)[places])
    elif len(labels) and labels.max() >= len(manifest.classes):
        raise DataError(f"{path} has the label {labels.max()}, {UNKNOWN_CLASS}")
    return index.rows


def _check_places(index: Index, shard: Shard, path: str, remedy: str) -> None:
    offset, size = index[:, OFFSET], index[:, SIZE]
    if (offset < 0).any() or (size < 1).any() or (offset > shard.bytes - size).any():
        raise DataError(f"{path} is damaged: it points outside {shard.name}. {remedy} again.")

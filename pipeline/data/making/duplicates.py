"""Images of a set with equal pixels: found when all shards are made, listed by the names that they have in the source.

While shards are made, each image gets a mark: the checksum of two of its rows, which costs next to nothing. At the
end only images with equal marks are decoded and compared, so that copies are found whatever their files were.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import stopping
from pipeline.data.format.codecs import Encoding, Shape, decode_into
from pipeline.data.format.indexes import Index, load_index
from pipeline.data.format.manifest import Shard
from pipeline.data.format.native_output import hidden_native_output
from pipeline.data.format.tar_writer import TarWriter
from pipeline.data.making.shard_writer import Copy, Record, finish_shard, shard_path, write_record
from pipeline.data.sources.tar_files import list_tar
from pipeline.durable import replacing
from pipeline.regular_files import open_regular


class Place(NamedTuple):
    """An image of a set: the number of its shard, and its row there."""

    shard: int
    row: int


def find_copies(out: Path, records: Sequence[Record], shape: Shape, encoding: Encoding) -> dict[Place, Place]:
    """For each image with the same pixels as an earlier one of the set, the first of these.

    Raises DataError if a shard cannot be read.
    """
    first: dict[bytes, Place] = {}
    copies: dict[Place, Place] = {}
    with hidden_native_output():
        for number, rows in _with_equal_marks(records).items():
            for row, digest in _pixel_digests(out, records[number], rows, shape, encoding):
                place = Place(number, row)
                if (original := first.setdefault(digest, place)) != place:
                    copies[place] = original
    return copies


def _with_equal_marks(records: Sequence[Record]) -> dict[int, list[int]]:
    """The rows of each shard whose mark appears more than once in the set."""
    numbers = np.repeat(np.arange(len(records)), [len(record.marks) for record in records])
    rows = np.concatenate([np.arange(len(record.marks)) for record in records])
    marks = np.concatenate([np.array(record.marks, dtype=np.int64) for record in records])
    _, group, sizes = np.unique(marks, return_inverse=True, return_counts=True)
    found: dict[int, list[int]] = defaultdict(list)
    for place in np.flatnonzero(sizes[group] > 1).tolist():
        found[int(numbers[place])].append(int(rows[place]))
    return found


def _pixel_digests(
    out: Path, record: Record, rows: Sequence[int], shape: Shape, encoding: Encoding
) -> Iterator[tuple[int, bytes]]:
    assert record.shard is not None
    index = load_index(out, record.shard)
    pixels = np.empty(shape, dtype=np.uint8)
    with open_regular(out / record.shard.name, within=out) as file:
        for row in rows:
            stopping.check()
            offset, size = index[row, :2].tolist()
            file.seek(offset)
            decode_into(pixels, np.frombuffer(file.read(size), dtype=np.uint8), encoding)
            yield row, hashlib.blake2b(pixels.data, digest_size=16).digest()


def name_copies(records: Sequence[Record], copies: dict[Place, Place]) -> list[Copy]:
    """The names of copies and of their originals, with those that were dropped before."""
    named = [
        Copy(records[first.shard].names[first.row], records[copy.shard].names[copy.row])
        for copy, first in copies.items()
    ]
    return sorted([*(copy for record in records for copy in record.dropped), *named])


def drop_copies(out: Path, records: Sequence[Record], copies: dict[Place, Place]) -> list[Record]:
    """Write the shards that hold copies again, without them; return all records.

    Each shard is replaced as a whole, and its record says what was dropped, so that this can be continued after a kill.
    """
    dropped: dict[int, dict[int, Copy]] = defaultdict(dict)
    for (number, row), first in copies.items():
        dropped[number][row] = Copy(records[first.shard].names[first.row], records[number].names[row])
    return [
        _without(out, number, record, dropped[number]) if number in dropped else record
        for number, record in enumerate(records)
    ]


def _without(out: Path, number: int, record: Record, dropped: dict[int, Copy]) -> Record:
    """The record of a shard after these rows of it were dropped."""
    assert record.shard is not None
    path = shard_path(out, number)
    kept = [row for row in range(len(record.names)) if row not in dropped]
    shard = _copy_rows(out, path, load_index(out, record.shard), kept) if kept else None
    if shard is None:
        path.unlink()
        path.with_suffix(".npy").unlink()
    copies = {copy.copy for copy in dropped.values()}
    changed = replace(
        record,
        shard=shard,
        names=tuple(record.names[row] for row in kept),
        marks=tuple(record.marks[row] for row in kept),
        dropped=(*record.dropped, *dropped.values()),
        first_frames=tuple(name for name in record.first_frames if name not in copies),
    )
    write_record(path, changed)
    return changed


def _copy_rows(out: Path, path: Path, index: Index, kept: Sequence[int]) -> Shard:
    """Replace a tar file and its index by those of some of its samples."""
    members = list_tar(path, within=out)
    images = [name for name in members.files if not name.endswith(".cls")]
    rows = []
    with replacing(path, is_shared=True) as file:
        tar = TarWriter(file)
        for row in kept:
            stopping.check()
            image, label = images[row], f"{images[row].partition('.')[0]}.cls"
            size, start = members.files[image]
            offset = tar.add(image, members.read(image, size))
            if label in members.files:
                tar.add(label, members.read(label, members.files[label][0]))
            # The index points to the pixels, which in a .npy file come after a header.
            rows.append((offset + int(index[row, 0]) - start, *index[row, 1:].tolist()))
        sha256 = tar.finish()
    return finish_shard(path, tar.bytes, sha256, rows)

"""Any samples of a shard set by id, decoded, through memory maps and the shards' indexes."""

from __future__ import annotations

import math
import mmap
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data.format.codecs import Bytes, decode_into
from pipeline.data.format.manifest import INDEX_COLUMNS, Index
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.reading.order import Ids
from pipeline.errors import DataError

# Each takes a file descriptor, of which a process commonly has 1,024.
OPEN_SHARDS = 256


@dataclass(frozen=True)
class OpenShard:
    """A tar file as uint8 (bytes,), mapped into memory, and its index."""

    content: Bytes
    index: Index


class ShardReader:
    """Reads and decodes samples, from any thread. Shards are opened when first touched; the last used stay open."""

    def __init__(self, shards: ShardSet) -> None:
        self.shards, self.manifest = shards, shards.manifest
        self._ends = np.cumsum([shard.count for shard in self.manifest.shards])
        self._opened: OrderedDict[int, OpenShard] = OrderedDict()
        self._expected: set[int] | None = None
        self._lock = threading.Lock()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.manifest.channels, *self.manifest.resolution)

    @property
    def image_bytes(self) -> int:
        """The size of one decoded image."""
        return math.prod(self.image_shape)

    def expect(self, now: list[int], later: list[int]) -> None:
        """Say which shards are being read, and which come next. All others are closed."""
        kept = {*now, *later}
        with self._lock:
            self._expected = kept
            for number in [number for number in self._opened if number not in kept]:
                del self._opened[number]
        self.shards.files.expect(self._file_names(now), self._file_names(later))

    def read(self, ids: Ids) -> Tensor:
        """The images of these samples: uint8 (count, channels, height, width), on the host.

        Raises DataError, naming the sample, where one is damaged.
        """
        images = np.empty((len(ids), *self.manifest.resolution, self.manifest.channels), dtype=np.uint8)
        for number, rows, places in self._by_shard(ids):
            self._read_shard(images, number, rows, places)
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def labels(self, ids: Ids) -> Tensor:
        """The labels of these samples: int64 (count,), on the host; -1 for a sample without one."""
        labels = np.empty(len(ids), dtype=np.int64)
        for number, rows, places in self._by_shard(ids):
            labels[rows] = self._open(number).index[places, INDEX_COLUMNS.index("label")]
        return torch.from_numpy(labels)

    def _read_shard(self, images: Bytes, number: int, rows: list[int], places: list[int]) -> None:
        """Decode samples of one shard into rows of `images`. By itself, so that it lets go of one before the next."""
        shard = self._open(number)
        entries = shard.index[places].tolist()
        for row, place, (offset, size, _, checksum) in zip(rows, places, entries, strict=True):
            encoded = shard.content[offset : offset + size]
            try:
                if zlib.crc32(encoded.data) != checksum:
                    raise DataError("its bytes are not those that were written")
                decode_into(images[row], encoded, self.manifest.encoding)
            except DataError as error:
                raise DataError(self._damaged(number, place, error)) from None

    def _by_shard(self, ids: Ids) -> Iterator[tuple[int, list[int], list[int]]]:
        """For each shard touched: its number, rows of the batch, and the places in the shard that go there."""
        shards = np.searchsorted(self._ends, ids, side="right")
        order = np.argsort(shards, kind="stable")
        numbers, firsts = np.unique(shards[order], return_index=True)
        ends = np.append(firsts[1:], len(ids))[: len(firsts)]
        for number, first, end in zip(numbers.tolist(), firsts, ends, strict=True):
            rows = order[first:end]
            start = int(self._ends[number - 1]) if number else 0
            yield number, rows.tolist(), (ids[rows] - start).tolist()

    def _damaged(self, number: int, place: int, error: DataError) -> str:
        name = self.shards.files.where(self.manifest.shards[number].name)
        return (
            f"Sample {place} of {name} is damaged: {error}. `wgan shards check` lists every damaged "
            "sample; copy the file again, or make the shards again."
        )

    def _open(self, number: int) -> OpenShard:
        with self._lock:
            if shard := self._opened.get(number):
                self._opened.move_to_end(number)
                return shard
        # Outside of the lock, for it may have to be fetched.
        shard = self._open_shard(number)
        with self._lock:
            if self._expected is not None and number not in self._expected:
                return (
                    shard  # for this batch alone: what stays open stays on the disk, and takes others' room
                )
            self._opened[number] = shard
            while len(self._opened) > OPEN_SHARDS:
                self._opened.popitem(last=False)
        return shard

    def _open_shard(self, number: int) -> OpenShard:
        shard = self.manifest.shards[number]
        with self.shards.files.open(shard.name) as file:
            try:
                content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                where = self.shards.files.where(shard.name)
                raise DataError(f"{where} cannot be opened: {error}.") from None
        # A file that shrank since would end the process with SIGBUS where it is touched.
        if len(content) != shard.bytes:
            where = self.shards.files.where(shard.name)
            raise DataError(f"{where} has {len(content)} bytes, not {shard.bytes}. Copy it again.")
        return OpenShard(np.frombuffer(content, dtype=np.uint8), self.shards.load_index(shard))

    def _file_names(self, numbers: list[int]) -> list[str]:
        shards = (self.manifest.shards[number] for number in numbers)
        return [name for shard in shards for name in (shard.name, shard.index)]

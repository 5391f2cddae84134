"""Reads and decodes samples of a shard set by id, with memory maps and the shards' indexes."""

from __future__ import annotations

import math
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data.format.codecs import Bytes, decode_into
from pipeline.data.format.indexes import LABEL, Index
from pipeline.data.format.mapped_file import MappedFile
from pipeline.data.format.native_output import hidden_native_output
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.reading.stream import Ids
from pipeline.errors import DataError
from pipeline.wording import counted

# Each open shard needs a file descriptor, and processes are often limited to 1,024.
OPEN_SHARDS = 256


@dataclass(frozen=True)
class OpenShard:
    """A memory-mapped tar file, and its index."""

    file: MappedFile
    index: Index


class ShardReader:
    """Reads and decodes samples, from any thread. Shards are opened on first use; the last ones used stay open."""

    def __init__(self, shards: ShardSet) -> None:
        """Raises ConfigError if the images of the set are not of one size."""
        self.shards, self.manifest = shards, shards.manifest
        self._stored = self.manifest.stored
        self._ends = np.cumsum([shard.count for shard in self.manifest.shards])
        self._opened: OrderedDict[int, OpenShard] = OrderedDict()
        self._expected: set[int] | None = None
        self._lock = threading.Lock()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self._stored.channels, *self._stored.resolution)

    @property
    def image_bytes(self) -> int:
        """The size of one decoded image in bytes."""
        return math.prod(self.image_shape)

    def expect(self, now: list[int], later: list[int]) -> None:
        """Announce which shards are being read and which come next. All other shards are closed."""
        kept = {*now, *later}
        with self._lock:
            self._expected = kept
            for number in [number for number in self._opened if number not in kept]:
                del self._opened[number]
        self.shards.files.expect(self._file_names(now), self._file_names(later))

    def await_shards(self, numbers: list[int]) -> None:
        """Wait until these shards can be read at once, also from a URL. Raises as `stopping.check` does."""
        for number in numbers:
            self._open(number)

    def read(self, ids: Ids) -> Tensor:
        """The images of these samples: uint8 (count, channels, height, width), on the CPU.

        Raises DataError, which names the sample, if one is damaged.
        """
        images = np.empty((len(ids), *self._stored.resolution, self._stored.channels), dtype=np.uint8)
        # Once for the whole batch: libpng complains about pixels whose checksums are right.
        with hidden_native_output():
            for number, rows, places in self._by_shard(ids):
                try:
                    self._read_shard(images, number, rows, places)
                except DataError:
                    # The shard may be a copy that has changed, on the disk of this machine.
                    if not self._renew(number):
                        raise
                    self._read_shard(images, number, rows, places)
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def labels(self, ids: Ids) -> Tensor:
        """The labels of these samples: int64 (count,), on the host; -1 for a sample without one."""
        labels = np.empty(len(ids), dtype=np.int64)
        for number, rows, places in self._by_shard(ids):
            labels[rows] = self._open(number).index[places, LABEL]
        return torch.from_numpy(labels)

    def _read_shard(self, images: Bytes, number: int, rows: list[int], places: list[int]) -> None:
        """Decode samples of one shard into rows of `images`. A method, so that the shard is released at its end."""
        shard = self._open(number)
        content, entries = shard.file.content, shard.index[places].tolist()
        for row, place, (offset, size, _, checksum) in zip(rows, places, entries, strict=True):
            encoded = content[offset : offset + size]
            try:
                if zlib.crc32(encoded.data) != checksum:
                    raise DataError("its CRC-32 differs from the one in the index")
                decode_into(images[row], encoded, self._stored.encoding)
            except DataError as error:
                if shard.file.is_cut:
                    break
                raise DataError(self._damaged(number, place, error)) from None
        # Also if nothing failed: pixels without a code of their own may have been read as zeros after their checksum.
        if shard.file.is_cut:
            raise DataError(self._cut(number))

    def _renew(self, number: int) -> bool:
        """Whether the shard was damaged on this machine, and is to be opened again."""
        with self._lock:
            self._opened.pop(number, None)
        return self.shards.files.renew(self._file_names([number]))

    def _by_shard(self, ids: Ids) -> Iterator[tuple[int, list[int], list[int]]]:
        """Yield for each shard its number, the rows of the batch, and the places in the shard of their samples."""
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
            f"Sample {place} of {name} is damaged: {error}. Copy the file again, or make the shards again; `wgan "
            "shards check` lists all damaged samples."
        )

    def _cut(self, number: int) -> str:
        name = self.shards.files.where(self.manifest.shards[number].name)
        return (
            f"{name} became shorter while it was read: another program writes or copies it. Copy the file again when "
            "nothing else uses it."
        )

    def _open(self, number: int) -> OpenShard:
        with self._lock:
            if shard := self._opened.get(number):
                self._opened.move_to_end(number)
                return shard
        # Without the lock, because it may have to be downloaded first.
        shard = self._open_shard(number)
        with self._lock:
            if self._expected is not None and number not in self._expected:
                return (
                    shard  # only for this batch: an open shard stays on the disk and takes the room of others
                )
            self._opened[number] = shard
            while len(self._opened) > OPEN_SHARDS:
                self._opened.popitem(last=False)
        return shard

    def _open_shard(self, number: int) -> OpenShard:
        shard = self.manifest.shards[number]
        with self.shards.files.open(shard.name) as file:
            try:
                mapped = MappedFile(file)
            except (OSError, ValueError) as error:
                where = self.shards.files.where(shard.name)
                raise DataError(f"{where} cannot be mapped into memory: {error}. Copy it again.") from None
        if len(mapped.content) != shard.bytes:
            where = self.shards.files.where(shard.name)
            raise DataError(
                f"{where} has {counted(len(mapped.content), 'byte')} instead of {shard.bytes:,}. Copy it again."
            )
        return OpenShard(mapped, self.shards.load_index(shard))

    def _file_names(self, numbers: list[int]) -> list[str]:
        shards = (self.manifest.shards[number] for number in numbers)
        return [name for shard in shards for name in (shard.name, shard.index)]

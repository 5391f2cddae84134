"""Reads and decodes samples of a shard set by id, with memory maps and the shards' indexes."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from pipeline.data.format.codecs import Bytes, decode_into
from pipeline.data.format.conversion import convert_encoded
from pipeline.data.format.file_checks import INDEX_AGAIN, MAKE_AGAIN
from pipeline.data.format.indexes import LABEL, Index
from pipeline.data.format.mapped_file import MappedFile
from pipeline.data.format.native_output import hidden_native_output
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.reading.order import Batch, crops
from pipeline.data.reading.stream import Ids
from pipeline.errors import DataError
from pipeline.wording import counted

# Each open shard needs a file descriptor, and processes are often limited to 1,024.
OPEN_SHARDS = 256
PIXELS_PER_THREAD = 1024
"""Of an image. A thread needs Python's lock three times for each image, and waits longer for it than the 10 us that so
many pixels take, while another thread has it."""


@dataclass(frozen=True)
class OpenShard:
    """A memory-mapped tar file, and its index."""

    file: MappedFile
    index: Index


class ShardReader:
    """Reads and decodes samples, from any thread. Shards are opened on first use; the last ones used stay open."""

    def __init__(self, shards: ShardSet, crop_seed: int = 0) -> None:
        """`crop_seed` decides where random crops are, with the epoch and the sample.

        Raises ConfigError if the images of the set are not of one size, and no size is asked for.
        """
        self.shards, self.manifest, self._crop_seed = shards, shards.manifest, crop_seed
        self.image_shape = shards.image_shape
        """(channels, height, width)"""
        self._ends = np.cumsum([shard.count for shard in self.manifest.shards])
        self._opened: OrderedDict[int, OpenShard] = OrderedDict()
        self._expected: set[int] | None = None
        self._lock = threading.Lock()

    @property
    def changes_by_epoch(self) -> bool:
        """Whether an image is another one in each epoch, so that a copy cannot be kept."""
        conversion = self.shards.conversion
        return conversion is not None and conversion.fit == "random_crop"

    @property
    def useful_threads(self) -> int | None:
        """How many threads decode faster than fewer, however many cores there are; None for originals: any number."""
        stored = [part.form_of(0).stored for part in self.shards.sources]
        pixels = [math.prod(form.resolution) for form in stored if form is not None]
        return max(1, min(pixels) // PIXELS_PER_THREAD) if len(pixels) == len(stored) else None

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

    def read(self, ids: Ids, epochs: Ids | None = None) -> Tensor:
        """The images of these samples: uint8 (count, channels, height, width), on the CPU.

        Random crops are those of these epochs, int64 (count,); without them those of the first epoch. Raises
        DataError, which names the sample, if one is damaged.
        """
        channels, *size = self.image_shape
        images = np.empty((len(ids), *size, channels), dtype=np.uint8)
        drawn = self._places(ids, epochs)
        # Once for the whole batch: libpng complains about pixels whose checksums are right.
        with hidden_native_output():
            for number, rows, places in self._by_shard(ids):
                try:
                    self._read_shard(images, drawn, number, rows, places)
                except DataError:
                    # The shard may be a copy that has changed, on the disk of this machine.
                    if not self._renew(number):
                        raise
                    self._read_shard(images, drawn, number, rows, places)
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def labels(self, ids: Ids) -> Tensor:
        """The labels of these samples: int64 (count,), on the host; -1 for a sample without one."""
        labels = np.empty(len(ids), dtype=np.int64)
        for number, rows, places in self._by_shard(ids):
            labels[rows] = self._open(number).index[places, LABEL]
        return torch.from_numpy(labels)

    def _places(self, ids: Ids, epochs: Ids | None) -> list[float | None]:
        """Where the crop of each sample is, None for the centre."""
        if not self.changes_by_epoch:
            return [None] * len(ids)
        drawn = crops(self._crop_seed, Batch(ids, np.zeros_like(ids) if epochs is None else epochs))
        return [float(place) for place in drawn]

    def _read_shard(
        self, images: Bytes, drawn: list[float | None], number: int, rows: list[int], places: list[int]
    ) -> None:
        """Decode samples of one shard into rows of `images`. A method, so that the shard is released at its end."""
        shard = self._open(number)
        content, entries = shard.file.content, shard.index[places].tolist()
        stored, conversion = self.shards.form_of(number)
        for row, place, (offset, size, _, checksum) in zip(rows, places, entries, strict=True):
            encoded = content[offset : offset + size]
            try:
                if crc32(encoded.data) != checksum:
                    raise DataError("its CRC-32 differs from the one in the index")
                if conversion is None:
                    assert stored is not None, "originals have no shape of their own"
                    decode_into(images[row], encoded, stored.encoding)
                else:
                    images[row] = convert_encoded(encoded, stored, conversion, drawn[row])
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
        shard = self.manifest.shards[number]
        remedy = INDEX_AGAIN if shard.is_original else MAKE_AGAIN
        return (
            f"Sample {place} of {self.shards.files.where(shard.name)} is damaged: {error}. Copy the file again, or "
            f"{remedy}; `wgan shards check` lists all damaged samples."
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

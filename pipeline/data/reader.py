"""Any samples of a shard directory by id, decoded, through memory maps and the shards' indexes."""

from __future__ import annotations

import math
import mmap
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.data.convert import decode_png
from pipeline.data.manifest import Manifest, load_index
from pipeline.data.order import Ids
from pipeline.errors import DataError


class ShardReader:
    """Reads and decodes samples. Shards are opened when first touched, and stay open."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory, self.manifest = directory, manifest
        self._ends = np.cumsum([shard.count for shard in manifest.shards])
        self._open = cache(self._open_shard)

    def __reduce__(self) -> tuple[type[ShardReader], tuple[Path, Manifest]]:
        # A worker that is not forked gets a reader of its own, which opens its own shards.
        return ShardReader, (self.directory, self.manifest)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.manifest.channels, *self.manifest.resolution)

    @property
    def image_bytes(self) -> int:
        """The size of one decoded image."""
        return math.prod(self.image_shape)

    def read(self, ids: Ids) -> Tensor:
        """The images of these samples: uint8 (count, channels, height, width), on the host."""
        images = np.empty((len(ids), *self.image_shape), dtype=np.uint8)
        for row, sample in enumerate(ids.tolist()):
            images[row] = self._decode(sample)
        return torch.from_numpy(images)

    def _decode(self, sample: int) -> npt.NDArray[np.uint8]:
        shard = int(np.searchsorted(self._ends, sample, side="right"))
        place = sample - (int(self._ends[shard - 1]) if shard else 0)
        data, index = self._open(shard)
        offset, size = int(index[place, 0]), int(index[place, 1])
        try:
            image = decode_png(data[offset : offset + size], self.manifest.resolution, self.manifest.channels)
        except DataError as error:
            name = self.directory / self.manifest.shards[shard].name
            raise DataError(
                f"Sample {place} of {name} is damaged: {error}. `wgan shards check` lists every damaged "
                "sample; make the shards again."
            ) from None
        pixels = np.asarray(image)
        return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)

    def _open_shard(self, shard: int) -> tuple[mmap.mmap, npt.NDArray[np.int64]]:
        entry = self.manifest.shards[shard]
        try:
            with (self.directory / entry.name).open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"{self.directory / entry.name} cannot be opened: {reason}.") from None
        return data, load_index(self.directory, entry)

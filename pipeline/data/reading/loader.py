"""Loads this rank's part of each global batch.

A batch is made in two steps. First its images are read and decoded, ahead of the training loop if there are decoding
threads; the result is a `Staged`. Then `Loader.to_images` turns that into float32 images on the device of the
networks, with operations that a CUDA graph can capture. `to_batch` is the same with the labels, if the run has any.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.data.reading.cache import ResidentImages
from pipeline.data.reading.order import Batch, Order, flips
from pipeline.data.reading.stream import Ids
from pipeline.noise import RankRows
from pipeline.pixels import channels_first, to_float

BATCHES_AHEAD = 4
"""Batches decoded in advance by each thread, so that the training loop does not have to wait for one."""
MOST_BYTES_AHEAD = 1 << 29
"""Of batches decoded in advance: for a GPU they are in memory that the system cannot use for anything else."""


class Images(Protocol):
    """Reads samples by id: a reader or a cache."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""

    def read(self, ids: Ids, epochs: Ids | None = None) -> Tensor:
        """The images of these samples as in these epochs, or else as in the first: uint8 (count, channels, height,
        width)."""

    def expect(self, now: list[int], later: list[int]) -> None:
        """Announce which shards are being read, and which come next."""

    def await_shards(self, numbers: list[int]) -> None:
        """Wait until these shards can be read at once."""


class Staged(NamedTuple):
    """A batch that needs no more reading or decoding."""

    content: Tensor
    """uint8 images (count, channels, height, width); or their rows in the cache on the device, int64 (count,)"""
    flipped: Tensor | None
    """Which images to mirror left to right, bool (count,); None if no image is ever mirrored"""
    labels: Tensor | None = None
    """int64 (count,); None if the networks know of no labels"""


class RealBatch(NamedTuple):
    """This rank's part of a batch of training images, on the device."""

    images: Tensor
    """float32 (count, channels, height, width) in [-1, 1]"""
    labels: Tensor | None
    """int64 (count,); None if the networks know of no labels"""


class Loader:
    """An endless stream of batches of training images, from any position of the order."""

    def __init__(
        self,
        images: Images,
        order: Order,
        rows: RankRows,
        device: torch.device,
        workers: int = 0,
        flip_seed: int | None = None,
    ) -> None:
        """`workers` threads decode in advance; with 0, batches are decoded in the training loop. If there is a
        `flip_seed`, images are mirrored at random."""
        self._resident: ResidentImages | None = None
        if isinstance(images, ResidentImages) and images.device.type == device.type:
            self._resident = images
        self._images, self._order, self._rows = images, order, rows
        self.image_shape = images.image_shape
        self._device, self._workers, self._flip_seed = device, workers, flip_seed
        self._expected: tuple[list[int], list[int]] | None = None

    @property
    def is_resident(self) -> bool:
        """Whether all images are in memory, so that no batch waits for a shard."""
        return isinstance(self._images, ResidentImages)

    @property
    def batches_ahead(self) -> int:
        """How many batches are decoded in advance: at least one is, while the one before it is used."""
        batch_bytes = self._rows.count * math.prod(self.image_shape)
        return min(BATCHES_AHEAD * self._workers, max(2, MOST_BYTES_AHEAD // batch_bytes))

    def batches(self, position: int) -> Iterator[Staged]:
        """Yield batches for `to_images`, starting at `position`. Raises DataError if a sample is damaged."""
        planned = self._order.batches(position, self._rows)
        if self._resident:
            yield from (self._staged(torch.from_numpy(batch.ids), batch) for batch in planned)
            return
        self._expected = None
        reach = self._announced(position)
        if self._workers == 0:
            yield from (self._load(batch) for _, batch in zip(reach, planned, strict=True))
            return
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        waiting: deque[Future[Staged]] = deque()
        try:
            for _ in reach:
                while len(waiting) < self.batches_ahead:
                    waiting.append(pool.submit(self._load, next(planned)))
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def await_shards(self, position: int, count: int) -> None:
        """Wait until what the next `count` batches need is on this machine. Raises as `stopping.check` does."""
        self._announce(position)
        self._images.await_shards(
            sorted({shard for now in self._windows(position, count, self._rows) for shard in now})
        )

    def reach(self, position: int, count: int) -> list[list[int]]:
        """The shards that the next `count` batches need, over all ranks: it changes on all of them at the same time."""
        return self._windows(position, count, RankRows(0, self._rows.total, self._rows.total))

    def _windows(self, position: int, count: int, rows: RankRows) -> list[list[int]]:
        last = position + (count - 1) * rows.total
        return [self._order.windows(at, rows)[0] for at in (position, last)]

    def to_batch(self, staged: Staged) -> RealBatch:
        """The batch on the device."""
        return RealBatch(self.to_images(staged), self._on_device(staged.labels))

    def to_images(self, staged: Staged) -> Tensor:
        """The batch as float32 (count, channels, height, width) in [-1, 1], on the device."""
        return to_float(self.to_pixels(staged))

    def to_pixels(self, staged: Staged) -> Tensor:
        """The batch as uint8 (count, channels, height, width), on the device."""
        # Copying uint8 to the device moves a quarter of the bytes of float32, and copying row numbers even less.
        content = staged.content.to(self._device, non_blocking=True)
        images = self._resident.take(content) if self._resident else content.contiguous()
        if staged.flipped is not None:
            images = mirror(images, staged.flipped.to(self._device, non_blocking=True))
        return images

    def read(self, ids: Ids) -> RealBatch:
        """These samples as a batch, mirrored likewise."""
        return RealBatch(to_float(self.read_pixels(ids)), self._on_device(self._labels_of(ids)))

    def _on_device(self, labels: Tensor | None) -> Tensor | None:
        return None if labels is None else labels.to(self._device, non_blocking=True)

    def read_pixels(self, ids: Ids) -> Tensor:
        """These samples as uint8 (count, channels, height, width), on the device.

        If images are mirrored or cropped at random, these are as in the first epoch.
        """
        images = self._images.read(ids).to(self._device).contiguous()
        flipped = self._flips_of(Batch(ids, np.zeros_like(ids)))
        return images if flipped is None else mirror(images, flipped.to(self._device))

    def _announced(self, position: int) -> Iterator[int]:
        """Yield the positions of the batches, and announce their shards to the images when these change.

        Not earlier, when the batch is planned: at that time, shards of earlier batches may still be in use.
        """
        while True:
            self._announce(position)
            yield position
            position += self._rows.total

    def _announce(self, position: int) -> None:
        windows = self._order.windows(position, self._rows)
        if windows != self._expected:
            self._images.expect(*windows)
            self._expected = windows

    def _load(self, batch: Batch) -> Staged:
        images = self._images.read(batch.ids, batch.epochs)
        # Only copies from pinned memory can overlap with the device's work.
        images = images.pin_memory() if self._device.type == "cuda" else channels_first(images)
        return self._staged(images, batch)

    def _staged(self, content: Tensor, batch: Batch) -> Staged:
        return Staged(content, self._flips_of(batch), self._labels_of(batch.ids))

    def _labels_of(self, ids: Ids) -> Tensor | None:
        labels = self._order.labels
        return None if labels is None else torch.from_numpy(labels(ids))

    def _flips_of(self, batch: Batch) -> Tensor | None:
        return None if self._flip_seed is None else torch.from_numpy(flips(self._flip_seed, batch))


def mirror(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen images left to right. `images`: (count, channels, height, width); `chosen`: bool (count,)."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)

"""This rank's part of each global batch, as float32 images on the device."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from pipeline.data.order import Batch, Ids, Order, flips
from pipeline.noise import Slice

BATCHES_AHEAD = 4
"""For each thread: decoded batches wait for the loop, never the loop for them."""


class Images(Protocol):
    """Reads samples by id: uint8 (count, channels, height, width). A reader or a cache."""

    def read(self, ids: Ids) -> Tensor: ...

    def expect(self, now: list[int], later: list[int]) -> None:
        """Learn which shards are being read, and which come next."""


class Loaded(NamedTuple):
    """uint8 images of a batch, and which of them are to be mirrored: bool (count,), or None for none."""

    images: Tensor
    flipped: Tensor | None


class Loader:
    """Batches of training images from any position of the order, without end."""

    def __init__(
        self,
        images: Images,
        image_shape: tuple[int, int, int],
        order: Order,
        rows: Slice,
        device: torch.device,
        workers: int = 0,
        flip_seed: int | None = None,
    ) -> None:
        """`workers` threads decode ahead; 0 reads where the batch is asked for. Images are mirrored at random
        where there is a `flip_seed`."""
        self._images, self._order, self._rows = images, order, rows
        self.image_shape = image_shape
        self._device, self._workers, self._flip_seed = device, workers, flip_seed

    def batches(self, position: int) -> Iterator[Tensor]:
        """float32 (rows.count, channels, height, width) in [-1, 1], from `position` of the stream on.

        Raises DataError where a sample is damaged.
        """
        planned = self._order.batches(position, self._rows)
        reach = self._announced(position)
        if self._workers == 0:
            yield from (self._finish(self._load(batch)) for _, batch in zip(reach, planned, strict=True))
            return
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="decode")
        waiting: deque[Future[Loaded]] = deque()
        try:
            for _ in reach:
                while len(waiting) < BATCHES_AHEAD * self._workers:
                    waiting.append(pool.submit(self._load, next(planned)))
                yield self._finish(waiting.popleft().result())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def read(self, ids: Ids) -> Tensor:
        """These samples, like a batch."""
        return self._finish(Loaded(self._images.read(ids), None))

    def read_pixels(self, ids: Ids) -> Tensor:
        """These samples as they are: uint8 (count, channels, height, width), on the device."""
        return self._images.read(ids).to(self._device).contiguous()

    def _announced(self, position: int) -> Iterator[int]:
        """The positions at which batches are handed out. The images learn of their shards when these change.

        Only now, and not when a batch is planned: shards of earlier batches may still be being decoded then.
        """
        expected = None
        while True:
            windows = self._order.windows(position, self._rows)
            if windows != expected:
                self._images.expect(*windows)
                expected = windows
            yield position
            position += self._rows.total

    def _load(self, batch: Batch) -> Loaded:
        images = self._images.read(batch.ids)
        flipped = None if self._flip_seed is None else torch.from_numpy(flips(self._flip_seed, batch))
        if self._device.type == "cuda" and not images.is_cuda:
            # Only from pinned memory do copies run beside the device's work.
            images = images.pin_memory()
        return Loaded(images, flipped)

    def _finish(self, loaded: Loaded) -> Tensor:
        # Four times fewer bytes cross to the device as uint8 than as float32.
        images = loaded.images.to(self._device, non_blocking=True).contiguous()
        if loaded.flipped is not None:
            images = mirror(images, loaded.flipped.to(self._device, non_blocking=True))
        return scale(images)


def scale(images: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in [-1, 1]."""
    return images.float().mul_(2 / 255).sub_(1)


def mirror(images: Tensor, chosen: Tensor) -> Tensor:
    """The images (count, channels, height, width) with those chosen, bool (count,), turned left to right."""
    return torch.where(chosen[:, None, None, None], images.flip(3), images)

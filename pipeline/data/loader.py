"""This rank's part of each global batch, as float32 images on the device."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.data.order import Ids, Order
from pipeline.errors import DataError
from pipeline.noise import Slice


class Images(Protocol):
    """Reads samples by id: uint8 (count, channels, height, width). A reader or a cache."""

    def read(self, ids: Ids) -> Tensor: ...


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
    ) -> None:
        """`workers` decode ahead in processes of their own; 0 reads where the batch is asked for."""
        self._images, self._order, self._rows = images, order, rows
        self.image_shape = image_shape
        self._device, self._workers = device, workers

    def batches(self, position: int) -> Iterator[Tensor]:
        """float32 (rows.count, channels, height, width) in [-1, 1], from `position` of the stream on.

        Raises DataError where a sample is damaged.
        """
        ids = _RankBatches(self._order, position, self._rows)
        if self._workers == 0:
            for batch in ids:
                yield self._to_device(self._images.read(batch))
        # The loader keeps the order whatever the number of workers: it deals out whole batches in turn.
        loader = DataLoader(
            _ById(self._images),
            sampler=ids,
            batch_size=None,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_leave_signals_to_the_rank,
            prefetch_factor=4,
        )
        for images in loader:
            if isinstance(images, DataError):
                raise images
            yield self._to_device(images)

    def read(self, ids: Ids) -> Tensor:
        """These samples, like a batch."""
        return self._to_device(self._images.read(ids))

    def _to_device(self, images: Tensor) -> Tensor:
        # Four times fewer bytes cross to the device as uint8 than as float32.
        return scale(images.to(self._device, non_blocking=True))


def scale(images: Tensor) -> Tensor:
    """uint8 in 0..255 to float32 in [-1, 1]."""
    return images.float().mul_(2 / 255).sub_(1)


class _RankBatches(Sampler[Ids]):
    def __init__(self, order: Order, position: int, rows: Slice) -> None:
        self._order, self._position, self._rows = order, position, rows

    def __iter__(self) -> Iterator[Ids]:
        for batch in self._order.batches(self._position, self._rows.total):
            yield self._rows.of(batch)


class _ById(Dataset[Tensor | DataError]):
    def __init__(self, images: Images) -> None:
        self._images = images

    def __getitem__(self, ids: Ids) -> Tensor | DataError:
        # Raised in a worker, it would reach the user inside the worker's traceback.
        try:
            return self._images.read(ids)
        except DataError as error:
            return error


def _leave_signals_to_the_rank(worker: int) -> None:
    # A launcher signals the whole process group; a worker that died of it would cost the rank its batch.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)

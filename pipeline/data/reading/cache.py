"""Caches of decoded images: all images are decoded once, and then each batch is one gather of rows.

All ranks of a machine share one copy of the host cache: the first rank creates an anonymous memory file (memfd) and
the others map it. It has no name in any file system, so nothing is left behind, even if the ranks are killed.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline import stopping
from pipeline.cores import share_of_cores
from pipeline.data.reading.reader import ShardReader
from pipeline.data.reading.stream import Ids
from pipeline.errors import ConfigError
from pipeline.ranks.devices import free_device_memory

CHUNK = 256
AHEAD = 8
CGROUP = Path("/sys/fs/cgroup")

Cache = Literal["device", "host", "none"]
CACHES: tuple[Cache, ...] = ("device", "host", "none")
"""From the fastest, which needs the most memory, to the slowest, which needs none."""

Choice = tuple[Cache, str]
"""A cache, and the reason why it was chosen."""


@dataclass(frozen=True)
class Node:
    """The ranks of this machine, `size` of them, and how they communicate.

    `rank` is this rank's number on the machine and `first_rank` the global number of its first rank. `exchange` gathers
    a small JSON value from all ranks of the run; `all_agree` raises on all ranks if one has an error. All ranks must
    call both at the same time.
    """

    rank: int = 0
    size: int = 1
    first_rank: int = 0
    exchange: Callable[[Any], list[Any]] = lambda value: [value]
    all_agree: Callable[[Exception | None], None] = lambda error: _raise(error)


class ResidentImages:
    """All images of a set as one uint8 tensor in host or device memory."""

    def __init__(self, images: Tensor, image_shape: tuple[int, int, int]) -> None:
        """`images`: uint8 (count, channels * height * width)."""
        self._images, self.image_shape = images, image_shape

    @property
    def device(self) -> torch.device:
        """The device whose memory holds the images."""
        return self._images.device

    def to(self, device: torch.device) -> ResidentImages:
        """A copy in the memory of that device."""
        return ResidentImages(self._images.to(device), self.image_shape)

    def read(self, ids: Ids, epochs: Ids | None = None) -> Tensor:
        """The images of these samples, the same in all epochs: uint8 (count, channels, height, width), on the device
        of the cache."""
        return self.take(torch.from_numpy(ids).to(self.device, non_blocking=True))

    def take(self, rows: Tensor) -> Tensor:
        """The same for ids that are already on the device of the cache: int64 (count,)."""
        # Selecting rows of a matrix is several times faster than indexing a 4-d tensor.
        return self._images.index_select(0, rows).view(-1, *self.image_shape)

    def expect(self, now: list[int], later: list[int]) -> None:
        """Do nothing: all images are already in memory."""

    def await_shards(self, numbers: list[int]) -> None:
        """Do nothing: all images are already in memory."""


def choose_cache(
    wanted: Literal["auto", "device", "host", "none"], size: int, node_size: int, device: torch.device
) -> Choice:
    """Choose a cache for `size` bytes of images. Raises ConfigError if the wanted one is impossible or too small."""
    mib = f"{max(1, round(size / 2**20)):,} MiB"
    free_host = free_host_memory()
    free_device = free_device_memory(device)
    fits_host, fits_device = size < 0.5 * free_host, size < 0.3 * free_device
    can_share = node_size == 1 or sys.platform == "linux"
    if wanted == "device" and device.type != "cuda":
        raise ConfigError("data.cache: device needs a GPU, but this run is on the CPU. Use host or auto.")
    if wanted == "device" and not fits_device:
        raise ConfigError(
            f"data.cache: device would take {mib} of {free_device / 2**20:,.0f} MiB of free device memory, which "
            "leaves too little for training. Use data.cache: host, none or auto."
        )
    if wanted == "device" and not fits_host:
        raise ConfigError(
            f"data.cache: device first decodes all images into {mib} of host memory, of which only "
            f"{free_host / 2**20:,.0f} MiB are free. Use data.cache: none."
        )
    if wanted == "host" and not fits_host:
        raise ConfigError(
            f"data.cache: host would take {mib} of {free_host / 2**20:,.0f} MiB of free memory, which is more than "
            "half. Use data.cache: none."
        )
    if wanted == "host" and not can_share:
        raise ConfigError(
            "data.cache: host can be shared by several ranks on Linux only. Use data.cache: none."
        )
    if wanted != "auto":
        return wanted, f"{mib}, as configured"
    if fits_device and fits_host:
        return "device", f"{mib} fit into device memory"
    if fits_host and can_share:
        return "host", f"{mib} fit into host memory"
    return "none", f"{mib} of decoded images do not fit into memory"


def free_host_memory() -> int:
    """The bytes that this process may still use: the free memory of the machine or of its cgroup, the smaller one."""
    free = psutil.virtual_memory().available
    try:
        limit, used, statistics = (
            (CGROUP / name).read_text() for name in ("memory.max", "memory.current", "memory.stat")
        )
    except OSError:
        return free
    if limit.strip() == "max":
        return free
    # The page cache counts as used, but the kernel frees it when memory is needed.
    reclaimable = int(dict(line.split() for line in statistics.splitlines())["inactive_file"])
    return max(0, min(free, int(limit) - int(used) + reclaimable))


def decode_all(reader: ShardReader, node: Node, show_progress: bool) -> ResidentImages:
    """Decode all images into host memory: one copy per machine; each rank decodes its part of it.

    Raises DataError on all ranks if a sample is damaged.
    """
    count, row = reader.manifest.count, reader.image_bytes
    images = _shared_rows(count, row, node)
    first, end = (count * part // node.size for part in (node.rank, node.rank + 1))
    error = None
    try:
        cores = share_of_cores(node.size)
        _fill(images, reader, first, end, min(cores, reader.useful_threads or cores), show_progress)
    except Exception as failure:
        error = failure
    # This is also a barrier: before it, no rank may read what another one writes.
    node.all_agree(error)
    return ResidentImages(images, reader.image_shape)


def _shared_rows(count: int, row: int, node: Node) -> Tensor:
    if node.size == 1:
        return torch.empty(count, row, dtype=torch.uint8)
    place = None
    if node.rank == 0:
        descriptor = os.memfd_create("wgan-images")
        os.ftruncate(descriptor, count * row)
        place = f"/proc/{os.getpid()}/fd/{descriptor}"
    place = node.exchange(place)[node.first_rank]
    with open(place, "r+b") as file:  # noqa: PTH123 - Path.open would resolve the link
        memory = mmap.mmap(file.fileno(), count * row)
    node.exchange(None)
    if node.rank == 0:
        os.close(descriptor)
    return torch.from_numpy(np.frombuffer(memory, dtype=np.uint8).reshape(count, row))


def _fill(
    images: Tensor, reader: ShardReader, first: int, end: int, threads: int, show_progress: bool
) -> None:
    with tqdm(
        total=end - first,
        desc="decoding",
        unit=" images",
        disable=None if show_progress else True,
        leave=False,
    ) as bar:

        def decode(start: int, stop: int) -> None:
            stopping.check()
            read = reader.read(np.arange(start, stop, dtype=np.int64))
            images[start:stop].view(read.shape).numpy()[:] = read.numpy()
            bar.update(stop - start)

        ends = np.cumsum([shard.count for shard in reader.manifest.shards]).tolist()
        with ThreadPoolExecutor(threads) as pool:
            # Shard by shard, so that shards at a URL are downloaded, used and released in this order.
            for number, (low, high) in enumerate(zip([0, *ends], ends, strict=False)):
                low, high = max(low, first), min(high, end)
                if low < high:
                    reader.expect([number], [*range(number + 1, min(number + 1 + AHEAD, len(ends)))])
                    starts = range(low, high, CHUNK)
                    for _ in pool.map(decode, starts, [min(start + CHUNK, high) for start in starts]):
                        pass
    reader.expect([], [])


def _raise(error: Exception | None) -> None:
    if error is not None:
        raise error

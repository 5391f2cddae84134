"""Which sample comes when: arithmetic on (seed, position, sample counts of the shards).

An epoch draws the shards in random order, takes them in windows of so many shards, and shuffles the
samples of each window together. So any position is found without reading anything before it, memory
holds one window's permutation, and a reader touches few shards at a time. Epochs follow each other
without a seam: a batch may hold the end of one and the start of the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.manifest import Manifest, load_index
from pipeline.errors import ConfigError, DataError
from pipeline.options import Config

Ids = npt.NDArray[np.int64]
"""Sample ids: int64 (count,), each the sample's place in the concatenation of all shards."""


class Order:
    """The order of the training samples, and the ids that are held out of it."""

    def __init__(
        self,
        counts: Sequence[int],
        seed: int,
        shuffle_shards: int,
        held_out: float = 0.0,
        chosen: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        """`counts` are the shards' sample counts; `held_out` is the share kept for validation.

        `chosen` (sum of counts,) says of each sample whether it belongs to the run's classes; None: all do.
        """
        self._seed, self._shuffle_shards = seed, shuffle_shards
        self._chosen = chosen
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._held_out = held_out
        kept = [len(self._kept(shard)) for shard in range(len(counts))]
        self._kept_counts = np.array(kept, dtype=np.int64)
        self.epoch_size = int(self._kept_counts.sum())
        # A window's permutation serves many batches; two are in use where windows meet.
        self._window = lru_cache(maxsize=2)(self._shuffle_window)
        self._shards = lru_cache(maxsize=2)(self._shuffle_epoch)

    def samples(self, position: int, count: int) -> Ids:
        """The ids of the training samples [position, position + count) of the endless stream."""
        parts = []
        while count > 0:
            epoch, within = divmod(position, self.epoch_size)
            ends = self._shards(epoch)[1]
            window = int(np.searchsorted(ends, within, side="right"))
            first = within - (int(ends[window - 1]) if window else 0)
            part = self._window(epoch, window)[first : first + count]
            parts.append(part)
            position, count = position + len(part), count - len(part)
        return np.concatenate(parts)

    def batches(self, position: int, batch: int) -> Iterator[Ids]:
        """Batches of ids from `position` on, for ever."""
        while True:
            yield self.samples(position, batch)
            position += batch

    def held_out_ids(self) -> Ids:
        """The ids of the validation samples: the same for every seed."""
        ids = self._chosen_ids(0, int(self._starts[-1]))
        return ids[self._is_held_out(ids)]

    def _kept(self, shard: int) -> Ids:
        ids = self._chosen_ids(int(self._starts[shard]), int(self._starts[shard + 1]))
        return ids[~self._is_held_out(ids)]

    def _chosen_ids(self, first: int, end: int) -> Ids:
        ids = np.arange(first, end, dtype=np.int64)
        return ids if self._chosen is None else ids[self._chosen[first:end]]

    def _is_held_out(self, ids: Ids) -> npt.NDArray[np.bool_]:
        # The top 53 bits of a hash, as a fraction.
        return (mix64(ids) >> np.uint64(11)) < np.uint64(round(self._held_out * 2**53))

    def _shuffle_epoch(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The shards in this epoch's order, and where in the epoch each window of them ends."""
        shards = shuffled(len(self._kept_counts), (self._seed, epoch))
        ends = np.cumsum(self._kept_counts[shards])
        last_of_window = np.minimum(
            np.arange(self._shuffle_shards - 1, len(shards) + self._shuffle_shards - 1, self._shuffle_shards),
            len(shards) - 1,
        )
        return shards, ends[last_of_window]

    def _shuffle_window(self, epoch: int, window: int) -> Ids:
        first = window * self._shuffle_shards
        shards = self._shards(epoch)[0][first : first + self._shuffle_shards]
        ids = np.concatenate([self._kept(shard) for shard in shards])
        # Counted from 1: a seed sequence does not tell a trailing 0 from nothing.
        return ids[shuffled(len(ids), (self._seed, epoch, window + 1))]


def build_order(config: Config, manifest: Manifest) -> Order:
    """The order of a run. Raises DataError or ConfigError where the images do not make one global batch."""
    batch, data = config.schedule.real_images, config.data
    counts = [shard.count for shard in manifest.shards]
    chosen = None if data.classes is None else of_classes(data.classes, Path(data.shards), manifest)
    order = Order(counts, config.seed, data.shuffle_shards, data.validation, chosen)
    held_out = len(order.held_out_ids())
    if order.epoch_size < batch:
        raise DataError(
            f"{data.shards} leaves {order.epoch_size} training images, fewer than one batch of {batch}. "
            "Lower schedule.global_batch (or critic_batch), or use more images or classes."
        )
    if data.validation > 0 and held_out < config.schedule.global_batch:
        raise ConfigError(
            f"data.validation: {data.validation} of {manifest.count} images holds out {held_out}, fewer than one "
            f"global batch of {config.schedule.global_batch}. Raise it, or set it to 0."
        )
    return order


def of_classes(names: Sequence[str], directory: Path, manifest: Manifest) -> npt.NDArray[np.bool_]:
    """Of each sample, whether its class is one of these names. Raises ConfigError for unknown names."""
    unknown = [name for name in names if name not in manifest.classes]
    if unknown:
        known = ", ".join(manifest.classes) or "none: its images have no labels"
        raise ConfigError(
            f"data.classes: {', '.join(unknown)} not among the classes of {directory}, which are {known}. "
            "Name some of these, or leave data.classes out to train on all images."
        )
    labels = [manifest.classes.index(name) for name in names]
    return np.concatenate([np.isin(load_index(directory, shard)[:, 2], labels) for shard in manifest.shards])


def shuffled(count: int, key: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """A permutation of range(count) that depends on the key alone, also in later versions of NumPy.

    NumPy keeps the raw bits of a bit generator stable for good, but not what its methods make of them.
    """
    bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(count)
    return np.argsort(bits, kind="stable")


def mix64(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea, Flood 2014): every input bit moves every output bit."""
    x = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

"""The order of the samples, computed from the seed, the position and the number of samples in each shard.

The training samples, in the order of the manifest, are divided into equal streams (`data.streams`, by default one),
and each batch takes the same number of samples from every stream. In each epoch, a stream puts its shards in random
order, divides them into windows of consecutive shards, and shuffles the samples of each window together. So any
position can be computed without reading anything before it, only the permutations of two windows are in memory, and
only a few shards are read at a time. Epochs follow each other without a gap: a batch may hold the last samples of
one epoch and the first samples of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.format.shard_set import ShardSet
from pipeline.errors import ConfigError, DataError
from pipeline.noise import RankRows
from pipeline.options import Config
from pipeline.wording import counted

BATCHES_AT_ONCE = 16
"""Batches planned at once: planning one per step is slower, as by then NumPy's code has left the CPU's caches."""

Ids = npt.NDArray[np.int64]
"""Sample ids, int64 (count,): the index of each sample in the concatenation of all shards."""


class Batch(NamedTuple):
    """One rank's rows of a global batch: the id and the epoch of each sample, both int64 (count,)."""

    ids: Ids
    epochs: npt.NDArray[np.int64]


class Stream:
    """The endless order of some samples. `pieces` are (shard, first, end); `kept` gives a shard's training ids."""

    def __init__(
        self,
        number: int,
        pieces: Sequence[tuple[int, int, int]],
        kept: Callable[[int], Ids],
        seed: int,
        window_shards: int,
    ) -> None:
        self._number, self._pieces, self._kept = number, pieces, kept
        self._seed, self._window_shards = seed, window_shards
        self._counts = np.array([end - first for _, first, end in pieces], dtype=np.int64)
        self.epoch_size = int(self._counts.sum())
        # The permutation of a window is used for many batches; at the end of a window, two are in use.
        self._window = lru_cache(maxsize=2)(self._shuffle_window)
        self._order = lru_cache(maxsize=2)(self._shuffle_epoch)

    def samples(self, position: int, count: int) -> Ids:
        """The ids of the samples at the positions [position, position + count)."""
        parts = [np.zeros(0, dtype=np.int64)]
        while count > 0:
            epoch, within = divmod(position, self.epoch_size)
            window, start = self._find_window(epoch, within)
            first = within - start
            part = self._window(epoch, window)[first : first + count]
            parts.append(part)
            position, count = position + len(part), count - len(part)
        return np.concatenate(parts)

    def epochs(self, position: int, count: int) -> npt.NDArray[np.int64]:
        """The epochs of the same samples: int64 (count,)."""
        return np.arange(position, position + count, dtype=np.int64) // self.epoch_size

    def windows(self, position: int) -> tuple[list[int], list[int]]:
        """The shards of the window at this position, and those of the next window."""
        epoch, within = divmod(position, self.epoch_size)
        window, _ = self._find_window(epoch, within)
        is_last = window == len(self._order(epoch)[1]) - 1
        following = (epoch + 1, 0) if is_last else (epoch, window + 1)
        return self._shards_of(epoch, window), self._shards_of(*following)

    def _find_window(self, epoch: int, within: int) -> tuple[int, int]:
        """The number of the window at a place in an epoch, and the place where the window starts."""
        ends = self._order(epoch)[1]
        window = int(np.searchsorted(ends, within, side="right"))
        return window, int(ends[window - 1]) if window else 0

    def _pieces_of(self, epoch: int, window: int) -> list[tuple[int, int, int]]:
        first = window * self._window_shards
        return [self._pieces[piece] for piece in self._order(epoch)[0][first : first + self._window_shards]]

    def _shards_of(self, epoch: int, window: int) -> list[int]:
        return [shard for shard, first, end in self._pieces_of(epoch, window) if end > first]

    def _shuffle_epoch(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The pieces in the order of this epoch, and the places in the epoch where its windows end."""
        # Windows are counted from 1 below, because SeedSequence ignores a trailing 0.
        pieces = shuffled(len(self._pieces), (self._seed, epoch, 0, self._number))
        ends = np.cumsum(self._counts[pieces])
        last_of_window = np.minimum(
            np.arange(self._window_shards - 1, len(pieces) + self._window_shards - 1, self._window_shards),
            len(pieces) - 1,
        )
        return pieces, ends[last_of_window]

    def _shuffle_window(self, epoch: int, window: int) -> Ids:
        ids = np.concatenate(
            [self._kept(shard)[first:end] for shard, first, end in self._pieces_of(epoch, window)]
        )
        return ids[shuffled(len(ids), (self._seed, epoch, window + 1, self._number))]


class Order:
    """The order of the training samples, and the ids that are held out for validation."""

    def __init__(
        self,
        counts: Sequence[int],
        seed: int,
        shuffle_shards: int,
        held_out: float = 0.0,
        chosen: npt.NDArray[np.bool_] | None = None,
        streams: int = 1,
    ) -> None:
        """`counts` are the numbers of samples in the shards; `held_out` is the share for validation, 0 to 1.

        `chosen`, bool (sum of counts,), is True for the samples of the run's classes; None means all samples.
        `streams` divide the `shuffle_shards` among them.
        """
        self._chosen = chosen
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.held_out_share = held_out
        ends = np.cumsum([len(self._kept(shard)) for shard in range(len(counts))])
        self.epoch_size = int(ends[-1])
        window_shards = max(1, shuffle_shards // streams)
        self.streams = [
            Stream(number, _cut(ends, number, streams), self._kept, seed, window_shards)
            for number in range(streams)
        ]

    def batch(self, position: int, rows: RankRows) -> Batch:
        """These rows of the global batch that starts at this position of the endless order.

        A batch holds first its rows of the first stream, then those of the second, and so on. The position and the
        size of the batch must be multiples of the number of streams.
        """
        return next(self._plan(position, rows, 1))

    def batches(self, position: int, rows: RankRows) -> Iterator[Batch]:
        """Yield these rows of each global batch, starting at `position`, without end."""
        while True:
            yield from self._plan(position, rows, BATCHES_AT_ONCE)
            position += BATCHES_AT_ONCE * rows.total

    def _plan(self, position: int, rows: RankRows, count: int) -> Iterator[Batch]:
        """These rows of `count` consecutive global batches."""
        each, place = rows.total // len(self.streams), position // len(self.streams)
        streams, start = self._streams_of(rows), rows.first % each

        def rows_of(parts: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
            batches = np.concatenate([part.reshape(count, each) for part in parts], axis=1)
            return batches[:, start : start + rows.count]

        ids = rows_of([stream.samples(place, count * each) for stream in streams])
        epochs = rows_of([stream.epochs(place, count * each) for stream in streams])
        return map(Batch, ids, epochs)

    def first(self, count: int) -> Ids:
        """The ids of the first `count` samples; none is repeated before all have been used."""
        each = -(-count // len(self.streams))
        # Streams may differ by one sample: the shorter ones must not start again while the others have one left.
        ids = [stream.samples(0, min(each, stream.epoch_size)) for stream in self.streams]
        return np.resize(np.concatenate(ids), count)

    def windows(self, position: int, rows: RankRows) -> tuple[list[int], list[int]]:
        """The shards that these rows are read from at this position, and the shards that come next."""
        pairs = [stream.windows(position // len(self.streams)) for stream in self._streams_of(rows)]
        return [shard for now, _ in pairs for shard in now], [shard for _, later in pairs for shard in later]

    def _streams_of(self, rows: RankRows) -> list[Stream]:
        """The streams that these rows of a batch belong to."""
        each = rows.total // len(self.streams)
        return self.streams[rows.first // each : -(-(rows.first + rows.count) // each)]

    def held_out_ids(self) -> Ids:
        """The ids of the validation samples, which are the same for every seed."""
        return np.concatenate([ids[self._is_held_out(ids)] for ids in self._chosen_ids()])

    def training_ids(self) -> Ids:
        """The ids of the training samples, in the order of the manifest."""
        return np.concatenate([ids[~self._is_held_out(ids)] for ids in self._chosen_ids()])

    def _kept(self, shard: int) -> Ids:
        ids = self._chosen_of(shard)
        return ids[~self._is_held_out(ids)]

    def _chosen_ids(self) -> Iterator[Ids]:
        """The ids of the chosen samples of each shard, one after the other: those of all can be many."""
        return map(self._chosen_of, range(len(self._starts) - 1))

    def _chosen_of(self, shard: int) -> Ids:
        first, end = int(self._starts[shard]), int(self._starts[shard + 1])
        ids = np.arange(first, end, dtype=np.int64)
        return ids if self._chosen is None else ids[self._chosen[first:end]]

    def _is_held_out(self, ids: Ids) -> npt.NDArray[np.bool_]:
        return _fractions(ids) < np.uint64(round(self.held_out_share * 2**53))

    def share_for(self, count: int) -> float:
        """The share that holds out exactly this many of the chosen samples, of which there must be as many."""
        fractions = np.concatenate([_fractions(ids) for ids in self._chosen_ids()])
        return (int(np.partition(fractions, count - 1)[count - 1]) + 1) / 2**53


def _fractions(ids: Ids) -> npt.NDArray[np.uint64]:
    """For each id its place in the order in which samples are held out: the top 53 bits of a hash."""
    return mix64(ids) >> np.uint64(11)


def _cut(ends: npt.NDArray[np.int64], number: int, streams: int) -> list[tuple[int, int, int]]:
    """The samples of one stream as (shard, first, end), where first and end count the shard's training samples.

    `ends` are the places where the training samples of each shard end in the concatenation of all of them.
    """
    total = int(ends[-1])
    first, end = (total * part // streams for part in (number, number + 1))
    pieces = []
    for shard, (start, stop) in enumerate(zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)):
        low, high = max(first, start), min(end, stop)
        if low < high or streams == 1:
            pieces.append((shard, low - start, high - start))
    return pieces


def build_order(config: Config, shards: ShardSet) -> Order:
    """The order of a run. Raises DataError if there are too few images for one batch, ConfigError for unknown classes.

    If `data.validation` holds out less than a global batch, a whole one is held out, or none if too few images would be
    left to train on. `describe_validation` says so.
    """
    batch, data = config.schedule.real_images, config.data
    counts = [shard.count for shard in shards.manifest.shards]
    chosen = None if data.classes is None else of_classes(data.classes, shards)

    def ordered(held_out: float) -> Order:
        return Order(counts, config.seed, data.shuffle_shards, held_out, chosen, data.streams)

    order = ordered(data.validation)
    held_out, wanted = len(order.held_out_ids()), config.schedule.global_batch
    if data.validation > 0 and held_out < wanted:
        # An estimate is of whole batches, and of a handful of images it would say nothing.
        left = order.epoch_size + held_out - wanted
        order = ordered(order.share_for(wanted) if left >= max(wanted, batch) else 0.0)
    if order.epoch_size < batch:
        raise DataError(
            f"{data.shards} has {counted(order.epoch_size, 'training image')}, fewer than one batch of {batch}. "
            "Lower schedule.global_batch (or critic_batch), or use more images or classes."
        )
    return order


def describe_validation(config: Config, order: Order) -> str | None:
    """That another share than `data.validation` is held out, and why; None if it is that one."""
    share, batch = config.data.validation, config.schedule.global_batch
    if order.held_out_share == share:
        return None
    held_out = len(order.held_out_ids())
    images = counted(order.epoch_size + held_out, "image")
    return f"data.validation: {share} of {images} is less than one batch of {batch}, so " + (
        f"{held_out} are held out" if held_out else "no image is held out: too few would be left to train on"
    )


def of_classes(names: Sequence[str], shards: ShardSet) -> npt.NDArray[np.bool_]:
    """Whether the class of each sample is one of these: bool (count,). Raises ConfigError for unknown names."""
    manifest = shards.manifest
    unknown = [name for name in names if name not in manifest.classes]
    if unknown:
        known = ", ".join(manifest.classes) or "none, because its images have no labels"
        raise ConfigError(
            f"data.classes: the shards have no class {', '.join(unknown)}. Their classes: {known}. Name some of "
            "these, or remove data.classes to train on all images."
        )
    labels = [manifest.classes.index(name) for name in names]
    return np.concatenate([np.isin(shards.load_index(shard)[:, 2], labels) for shard in manifest.shards])


def class_names(ids: Ids, shards: ShardSet) -> list[str | None]:
    """The name of the class of each sample, None for one without a label."""
    manifest = shards.manifest
    ends = np.cumsum([shard.count for shard in manifest.shards])
    numbers, labels = np.searchsorted(ends, ids, side="right"), np.full(len(ids), -1)
    for number in np.unique(numbers).tolist():
        index = shards.load_index(manifest.shards[number])
        chosen = numbers == number
        labels[chosen] = index[ids[chosen] - (ends[number] - len(index)), 2]
    return [manifest.classes[label] if 0 <= label < len(manifest.classes) else None for label in labels]


def shuffled(count: int, key: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """A permutation of range(count), int64 (count,), that depends only on the key, in every version of NumPy.

    NumPy guarantees that the raw bits of a bit generator never change, but not the results of its methods.
    """
    bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(count)
    return np.argsort(bits, kind="stable")


def flips(seed: int, batch: Batch) -> npt.NDArray[np.bool_]:
    """Whether each sample is mirrored: bool (count,), a coin toss that depends only on the seed, epoch and sample."""
    toss = mix64(np.array([seed], dtype=np.int64)) ^ batch.epochs.astype(np.uint64)
    toss = mix64((mix64(toss.view(np.int64)) ^ batch.ids.astype(np.uint64)).view(np.int64))
    return toss >= np.uint64(1 << 63)


def mix64(values: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The output function of SplitMix64 (Steele, Lea, Flood 2014): each input bit affects each output bit."""
    x = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))

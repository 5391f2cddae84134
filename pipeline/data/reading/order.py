"""The order of the samples, computed from the seed, the position and the number of samples in each shard.

The training samples, in the order of the manifest, are divided into equal streams (`data.streams`, by default one),
and each batch takes the same number of samples from every stream. In each epoch, a stream puts its shards in random
order, divides them into windows of consecutive shards, and shuffles the samples of each window together. So any
position can be computed without reading anything before it, only the permutations of two windows are in memory, and
only a few shards are read at a time. Epochs follow each other without a gap: a batch may hold the last samples of
one epoch and the first samples of the next.

If there are several sources, each is divided into such streams, and has epochs of its own. A stream of the whole takes
turns between the streams of the sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache, partial
from itertools import chain, count, cycle, islice, repeat
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.reading.shuffles import mix64
from pipeline.data.reading.stream import Ids, Stream, cut
from pipeline.data.reading.turns import MixedStream, share_turns, turns_of_stream
from pipeline.data.reading.used_samples import UsedSamples
from pipeline.noise import RankRows

BATCHES_AT_ONCE = 16
"""Batches planned at once: planning one per step is slower, as by then NumPy's code has left the CPU's caches."""


class Batch(NamedTuple):
    """One rank's rows of a global batch: the id and the epoch of each sample, both int64 (count,)."""

    ids: Ids
    epochs: npt.NDArray[np.int64]


IdsOf = Callable[[UsedSamples, int, int], Ids]
"""Of some samples, from the numbers of a shard and of a group: those for training, or those that are held out."""


class Source(NamedTuple):
    """Samples that take turns with those of other sources: a group of those of a set."""

    number: int
    used: UsedSamples
    group: int
    weight: int

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """How many training samples each shard has: int64 (shards,)."""
        counts: npt.NDArray[np.int64] = self.used.training_counts[self.group]
        return counts

    @property
    def size(self) -> int:
        """The number of training samples."""
        return int(self.counts.sum())

    def ids(self, ids_of: IdsOf) -> Iterator[Ids]:
        """Its training or held-out samples, shard by shard."""
        return (ids_of(self.used, shard, self.group) for shard in self.used.shards)


class Order:
    """The order of the training samples, and the ids that are held out for validation."""

    def __init__(
        self,
        used: Sequence[UsedSamples],
        seed: int,
        shuffle_shards: int,
        streams: int = 1,
        weights: Sequence[int] | None = None,
        labels: Callable[[Ids], npt.NDArray[np.int64]] | None = None,
    ) -> None:
        """The groups of `used` are sources, which take turns by their `weights`, by default equally often.

        A source of weight 0 has no turns. `shuffle_shards` are divided among the streams and the others. Each of them
        must have a sample for each stream. `labels` are those of samples by their ids, None if nobody asks for them.
        """
        self.labels = labels
        self.used, self._seed, self.stream_count = used, seed, streams
        groups = [(part, group) for part in used for group in range(part.group_count)]
        sources = map(Source, count(), *zip(*groups, strict=True), weights or repeat(1))
        self.sources = [source for source in sources if source.weight > 0]
        self._turns = share_turns([source.weight for source in self.sources])
        self._window_shards = max(1, shuffle_shards // (streams * len(self.sources)))
        self._stream = lru_cache(maxsize=None)(self._build_stream)

    @cached_property
    def epoch_size(self) -> int:
        """The number of training samples."""
        return sum(source.size for source in self.sources)

    @cached_property
    def held_out_count(self) -> int:
        """The number of validation samples."""
        return sum(int(source.used.held_out_counts[source.group].sum()) for source in self.sources)

    @property
    def held_out_share(self) -> float:
        """The share of the samples that is held out, 0 to 1."""
        return self.used[0].held_out_share

    @property
    def streams(self) -> list[Stream | MixedStream]:
        """All streams."""
        return [self._stream(number) for number in range(self.stream_count)]

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
        each, place = rows.total // self.stream_count, position // self.stream_count
        streams, start = self._streams_of(rows), rows.first % each

        def rows_of(parts: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
            batches = np.concatenate([part.reshape(count, each) for part in parts], axis=1)
            return batches[:, start : start + rows.count]

        ids = rows_of([stream.samples(place, count * each) for stream in streams])
        epochs = rows_of([stream.epochs(place, count * each) for stream in streams])
        return map(Batch, ids, epochs)

    def first(self, count: int) -> Ids:
        """The ids of the first `count` samples; fewer if a source would have to repeat one."""
        each = -(-count // self.stream_count)
        # Streams may differ by one sample: the shorter ones must not start again while the others have one left.
        ids = [stream.samples(0, min(each, stream.distinct)) for stream in self.streams]
        return np.concatenate(ids)[:count]

    def windows(self, position: int, rows: RankRows) -> tuple[list[int], list[int]]:
        """The shards that these rows are read from at this position, and the shards that come next."""
        pairs = [stream.windows(position // self.stream_count) for stream in self._streams_of(rows)]
        return [shard for now, _ in pairs for shard in now], [shard for _, later in pairs for shard in later]

    def _streams_of(self, rows: RankRows) -> list[Stream | MixedStream]:
        """The streams that these rows of a batch belong to."""
        each = rows.total // self.stream_count
        numbers = range(rows.first // each, -(-(rows.first + rows.count) // each))
        return [self._stream(number) for number in numbers]

    def _build_stream(self, number: int) -> Stream | MixedStream:
        streams = []
        for place, source in enumerate(self.sources):
            pieces = cut(source.counts, number, self.stream_count, keeps_empty=len(self.sources) == 1)
            pieces = pieces._replace(shards=pieces.shards + source.used.first_shard)
            samples_of = partial(source.used.training, group=source.group)
            key = (self._seed, number, place) if place else (self._seed, number)
            streams.append(Stream(pieces, samples_of, key, self._window_shards))
        if len(streams) == 1:
            return streams[0]
        return MixedStream(streams, turns_of_stream(self._turns, number, self.stream_count))

    def training_ids(self) -> Ids:
        """The ids of all training samples, source by source, in the order of the manifest."""
        return self._all_of(UsedSamples.training)

    def held_out_ids(self) -> Ids:
        """The ids of all validation samples, in the same order. They are the same for every seed."""
        return self._all_of(UsedSamples.held_out)

    def first_held_out(self, count: int) -> Ids:
        """The ids of the first `count` validation samples, or of all; sources take turns as in training."""
        left = [chain.from_iterable(source.ids(UsedSamples.held_out)) for source in self.sources]
        found: list[int] = []
        for turn in cycle(self._turns.tolist()):
            if len(found) == min(count, self.held_out_count):
                break
            # A source that has no more leaves its turn to the others.
            found += islice(left[turn], 1)
        return np.array(found, dtype=np.int64)

    def _all_of(self, ids_of: IdsOf) -> Ids:
        return np.concatenate([ids for source in self.sources for ids in source.ids(ids_of)])


def flips(seed: int, batch: Batch) -> npt.NDArray[np.bool_]:
    """Whether each sample is mirrored: bool (count,), a coin toss that depends only on the seed, epoch and sample."""
    return _tosses(seed, batch) >= np.uint64(1 << 63)


def crops(seed: int, batch: Batch) -> npt.NDArray[np.float64]:
    """Where each sample is cropped, from 0 to less than 1, by the seed, epoch and sample alone: float64 (count,)."""
    # Mixed once more, so that it says nothing of the flip.
    bits = mix64(_tosses(seed, batch).view(np.int64)) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def _tosses(seed: int, batch: Batch) -> npt.NDArray[np.uint64]:
    """64 random bits for each sample."""
    toss = mix64(np.array([seed], dtype=np.int64)) ^ batch.epochs.astype(np.uint64)
    return mix64((mix64(toss.view(np.int64)) ^ batch.ids.astype(np.uint64)).view(np.int64))

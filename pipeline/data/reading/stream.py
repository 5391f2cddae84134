"""The endless order of some samples: shards in random order, and the samples of a few shards shuffled together."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data.reading.shuffles import shuffled

Ids = npt.NDArray[np.int64]
"""Sample ids, int64 (count,): the index of each sample in the concatenation of all shards."""


class Pieces(NamedTuple):
    """Consecutive samples of a source, shard by shard: three int64 arrays of the same length.

    `first` and `end` count the samples of that source in the shard, and not all that the shard holds.
    """

    shards: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    end: npt.NDArray[np.int64]


class Stream:
    """The endless order of the samples of some pieces, shuffled anew in each epoch."""

    def __init__(
        self, pieces: Pieces, samples_of: Callable[[int], Ids], key: tuple[int, ...], window_shards: int
    ) -> None:
        """`samples_of` gives the ids of the source's samples in a shard.

        `key` is the seed, followed by what tells this stream from the others.
        """
        self._pieces, self._samples_of = pieces, samples_of
        self._seed, *self._key = key
        self._window_shards = window_shards
        self._counts = pieces.end - pieces.first
        self.epoch_size = int(self._counts.sum())
        # The permutation of a window is used for many batches; at the end of a window, two are in use.
        self._window = lru_cache(maxsize=2)(self._shuffle_window)
        self._order = lru_cache(maxsize=2)(self._shuffle_epoch)

    @property
    def distinct(self) -> int:
        """The number of samples at the start of the order of which none is a repetition."""
        return self.epoch_size

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

    def _pieces_of(self, epoch: int, window: int) -> npt.NDArray[np.int64]:
        first = window * self._window_shards
        return self._order(epoch)[0][first : first + self._window_shards]

    def _shards_of(self, epoch: int, window: int) -> list[int]:
        pieces = self._pieces_of(epoch, window)
        shards: list[int] = self._pieces.shards[pieces[self._counts[pieces] > 0]].tolist()
        return shards

    def _shuffle_epoch(self, epoch: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The pieces in the order of this epoch, and the places in the epoch where its windows end."""
        # Windows are counted from 1 below, because SeedSequence ignores a trailing 0.
        pieces = shuffled(len(self._counts), (self._seed, epoch, 0, *self._key))
        ends = np.cumsum(self._counts[pieces])
        last_of_window = np.minimum(
            np.arange(self._window_shards - 1, len(pieces) + self._window_shards - 1, self._window_shards),
            len(pieces) - 1,
        )
        return pieces, ends[last_of_window]

    def _shuffle_window(self, epoch: int, window: int) -> Ids:
        shards, first, end = (column[self._pieces_of(epoch, window)].tolist() for column in self._pieces)
        ids = np.concatenate(
            [self._samples_of(shard)[a:b] for shard, a, b in zip(shards, first, end, strict=True)]
        )
        return ids[shuffled(len(ids), (self._seed, epoch, window + 1, *self._key))]


def cut(counts: npt.NDArray[np.int64], number: int, streams: int, keeps_empty: bool) -> Pieces:
    """The pieces of one of `streams` equal parts of a source that has these numbers of samples in its shards.

    With `keeps_empty`, shards without samples are among the pieces of the only part: they take places in its windows.
    """
    ends = np.cumsum(counts)
    starts, total = ends - counts, int(ends[-1])
    first, end = (total * part // streams for part in (number, number + 1))
    if streams == 1 and keeps_empty:
        return Pieces(np.arange(len(counts)), np.zeros_like(counts), counts)
    low, high = np.maximum(starts, first), np.minimum(ends, end)
    (shards,) = np.nonzero(low < high)
    return Pieces(shards, (low - starts)[shards], (high - starts)[shards])

"""Whose turn it is: the order in which sources of samples take turns, so that each has its share at any time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.data.reading.stream import Ids, Stream

Turns = npt.NDArray[np.int32]
"""int32 (period,): the number of the source that has each turn. The turns repeat after a period."""


def share_turns(weights: Sequence[int]) -> Turns:
    """The turns of sources with these weights: after n turns, each has had its weight's share of n, to within one.

    That is the chairman assignment problem, solved as by Tijdeman (1980): among those that are owed enough for a turn,
    the one has it that would first be owed too much.
    """
    parts = np.array(weights, dtype=np.int64) // math.gcd(*weights)
    if (parts == 1).all():
        return np.arange(len(parts), dtype=np.int32)
    period, scale = int(parts.sum()), 2 * len(parts) - 2
    turns, owed = np.empty(period, dtype=np.int32), np.zeros_like(parts)
    for turn in range(period):
        # Counted in parts of a turn: period * scale are a whole one.
        owed += parts * scale
        patience = ((scale - 1) * period - owed) / parts
        turns[turn] = np.where(owed >= period, patience, np.inf).argmin()
        owed[turns[turn]] -= period * scale
    return turns


def turns_of_stream(turns: Turns, number: int, streams: int) -> Turns:
    """The turns of one of `streams` streams, which together have the turns of one.

    They deal the turns among them, one to each, and begin at another one whenever they would only repeat themselves.
    So in a period of its own, each stream has every turn once, and uses up its part of each source at the same rate.
    """
    period = len(turns)
    first = np.arange(period, dtype=np.int64) * streams
    rounds = first // math.lcm(streams, period)
    dealt: Turns = turns[(first + (number - rounds) % streams) % period]
    return dealt


class MixedStream:
    """The endless order of samples of several sources that take turns: a stream of each."""

    def __init__(self, streams: Sequence[Stream], turns: Turns) -> None:
        self._streams, self._turns = streams, turns
        order, shares = np.argsort(turns, kind="stable"), np.bincount(turns, minlength=len(streams))
        self._shares = shares.astype(np.int64)
        firsts = np.cumsum(shares) - shares
        # For each turn, how many its source had before it in the period.
        self._before = np.empty(len(turns), dtype=np.int64)
        self._before[order] = np.arange(len(turns)) - np.repeat(firsts, shares)
        self._places = np.split(order, firsts[1:])

    @property
    def distinct(self) -> int:
        """The number of samples at the start of the order of which none is a repetition."""
        found: list[int] = []
        for stream, share, places in zip(self._streams, self._shares.tolist(), self._places, strict=True):
            periods, rest = divmod(stream.epoch_size, share)
            found.append(periods * len(self._turns) + int(places[rest]))
        return min(found)

    def samples(self, position: int, count: int) -> Ids:
        """The ids of the samples at the positions [position, position + count)."""
        return self._gather(position, count, lambda stream: stream.samples)

    def epochs(self, position: int, count: int) -> npt.NDArray[np.int64]:
        """The epochs of the same samples, each of its own source: int64 (count,)."""
        return self._gather(position, count, lambda stream: stream.epochs)

    def windows(self, position: int) -> tuple[list[int], list[int]]:
        """The shards of all sources' windows at this position, and those of their next windows."""
        periods, rest = divmod(position, len(self._turns))
        had = periods * self._shares + np.bincount(self._turns[:rest], minlength=len(self._streams))
        pairs = [stream.windows(place) for stream, place in zip(self._streams, had.tolist(), strict=True)]
        now = dict.fromkeys(shard for shards, _ in pairs for shard in shards)
        return list(now), list(dict.fromkeys(shard for _, shards in pairs for shard in shards))

    def _gather(
        self, position: int, count: int, part_of: Callable[[Stream], Callable[[int, int], Ids]]
    ) -> Ids:
        """What the streams have at these positions, each at its own turns."""
        at = np.arange(position, position + count, dtype=np.int64)
        turns = self._turns[at % len(self._turns)]
        places = at // len(self._turns) * self._shares[turns] + self._before[at % len(self._turns)]
        order = np.argsort(turns, kind="stable")
        sources, firsts = np.unique(turns[order], return_index=True)
        found = np.empty(count, dtype=np.int64)
        for source, rows in zip(sources.tolist(), np.split(order, firsts[1:]), strict=True):
            # The turns of a source follow each other without a gap.
            found[rows] = part_of(self._streams[source])(int(places[rows[0]]), len(rows))
        return found

"""Which samples of a set a run uses: those of its classes, of which a share is held out for validation.

They are found shard by shard, when they are needed. So what is in memory grows with the number of shards, and not with
that of samples, and nothing is read before the start of a run unless it depends on labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.data.format.indexes import LABEL
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.reading.shuffles import mix64
from pipeline.data.reading.stream import Ids

SHARDS_IN_MEMORY = 256
"""Whose groups are kept, because several sources or streams read the same shards at the same time."""

Counts = npt.NDArray[np.int64]
"""int64 (groups, shards): how many samples each shard has of each group."""


class Groups(Protocol):
    """Sorts the samples of a set into groups."""

    count: int
    """The number of groups."""

    def of(self, shard: int) -> npt.NDArray[np.int32]:
        """The group of each sample of a shard of the set, from 0; -1 for those that are not used: int32 (count,)."""


class LabelGroups:
    """Groups of samples by their labels."""

    def __init__(self, shards: ShardSet, groups: Sequence[int]) -> None:
        """`groups` are those of the set's classes, by label; -1 for classes that are not used."""
        self.count = max(groups) + 1
        self._shards = shards
        # A label of -1, of a sample without one, is the last place.
        self._of_label = np.array([*groups, -1], dtype=np.int32)
        self.of = lru_cache(maxsize=SHARDS_IN_MEMORY)(self._read)

    def _read(self, shard: int) -> npt.NDArray[np.int32]:
        labels = self._shards.load_index(self._shards.manifest.shards[shard])[:, LABEL]
        return self._of_label[np.where(labels < len(self._of_label) - 1, labels, -1)]


class _Counted(NamedTuple):
    training: Counts
    held_out: Counts


class UsedSamples:
    """The samples of consecutive shards that are trained on, and those that are held out.

    Whether one is held out depends on its place in these shards and on the share, and on nothing else.
    """

    def __init__(
        self,
        counts: Sequence[int],
        held_out: float = 0.0,
        groups: Groups | None = None,
        first_shard: int = 0,
        first_id: int = 0,
    ) -> None:
        """`counts` are the numbers of samples in the shards; `held_out` is the share for validation, 0 to 1.

        Without `groups`, all samples are of one group. `first_shard` and `first_id` are where the shards begin in a
        set of several sources.
        """
        self._counts, self._groups = np.array(counts, dtype=np.int64), groups
        self._starts = np.cumsum(self._counts) - self._counts
        self.first_shard, self._first_id = first_shard, first_id
        self.group_count = 1 if groups is None else groups.count
        self.held_out_share = held_out
        self._limit = round(held_out * 2**53) << 11

    @property
    def shards(self) -> range:
        """The numbers of the shards in the whole set."""
        return range(self.first_shard, self.first_shard + len(self._counts))

    @property
    def training_counts(self) -> Counts:
        """How many training samples of each group each shard has."""
        return self._counted.training

    @property
    def held_out_counts(self) -> Counts:
        """How many held-out samples of each group each shard has."""
        return self._counted.held_out

    def training(self, shard: int, group: int) -> Ids:
        """The ids of a group's training samples in a shard, which is counted as in the whole set."""
        ids, held_out, groups = self._of(shard - self.first_shard)
        return ids[~held_out if groups is None else ~held_out & (groups == group)] + self._first_id

    def held_out(self, shard: int, group: int) -> Ids:
        """The ids of a group's held-out samples in a shard."""
        ids, held_out, groups = self._of(shard - self.first_shard)
        return ids[held_out if groups is None else held_out & (groups == group)] + self._first_id

    def fractions(self) -> Iterator[npt.NDArray[np.uint64]]:
        """For each shard, the places of its samples in the order in which they are held out: below 2^53."""
        for shard in range(len(self._counts)):
            ids, _, groups = self._of(shard)
            yield mix64(ids if groups is None else ids[groups >= 0]) >> np.uint64(11)

    def _of(self, shard: int) -> tuple[Ids, npt.NDArray[np.bool_], npt.NDArray[np.int32] | None]:
        """The ids of a shard counted from 0, which of them are held out, and their groups."""
        start = int(self._starts[shard])
        ids = np.arange(start, start + int(self._counts[shard]), dtype=np.int64)
        groups = None if self._groups is None else self._groups.of(shard + self.first_shard)
        if self._limit == 0 or self._limit == 1 << 64:
            return ids, np.full(len(ids), self._limit > 0), groups
        return ids, mix64(ids) < np.uint64(self._limit), groups

    @cached_property
    def _counted(self) -> _Counted:
        found = _Counted(*(np.zeros((self.group_count, len(self._counts)), dtype=np.int64) for _ in range(2)))
        if self._groups is None and self._limit == 0:
            found.training[0] = self._counts
            return found
        for shard in range(len(self._counts)):
            _, held_out, groups = self._of(shard)
            if groups is None:
                found.held_out[0, shard] = np.count_nonzero(held_out)
                found.training[0, shard] = len(held_out) - found.held_out[0, shard]
                continue
            for counts, chosen in ((found.training, ~held_out), (found.held_out, held_out)):
                # Those of no group are counted first, and left out.
                counts[:, shard] = np.bincount(groups[chosen] + 1, minlength=self.group_count + 1)[1:]
        return found


def share_for(used: Sequence[UsedSamples], count: int) -> float:
    """The share of all that holds out exactly this many of the used samples, of which there must be as many."""
    smallest = np.zeros(0, dtype=np.uint64)
    for part in used:
        for fractions in part.fractions():
            smallest = np.concatenate([smallest, fractions])
            if len(smallest) > count:
                smallest = np.partition(smallest, count - 1)[:count]
    return (int(smallest.max()) + 1) / 2**53

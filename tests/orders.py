"""Orders of small sets that tests make without any shards."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.data.reading.order import Order
from pipeline.data.reading.stream import Ids
from pipeline.data.reading.used_samples import Groups, UsedSamples
from pipeline.noise import RankRows


def order_of(
    counts: Sequence[int],
    seed: int,
    shuffle_shards: int,
    held_out: float = 0.0,
    groups: Groups | None = None,
    streams: int = 1,
) -> Order:
    """The order of one source whose shards have these numbers of samples."""
    return Order([UsedSamples(counts, held_out, groups)], seed, shuffle_shards, streams)


def samples(order: Order, position: int, count: int) -> Ids:
    """The ids of a global batch of `count` samples that starts at this position."""
    return order.batch(position, RankRows(0, count, count)).ids

"""Sources take turns: each has its share at any time, uses each of its samples once per epoch, on any ranks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice, pairwise

import numpy as np
import pytest

from pipeline.data.reading.order import Order
from pipeline.data.reading.turns import share_turns, turns_of_stream
from pipeline.data.reading.used_samples import UsedSamples
from pipeline.noise import RankRows
from tests.orders import order_of, samples

Shards = list[int]
CASES = pytest.mark.parametrize("case", range(40))


class Case:
    """Sets, weights and numbers drawn at random, other ones for each case."""

    def __init__(self, number: int) -> None:
        self._source = np.random.default_rng(number)
        self.sets = [self.several(1, 30, 6) for _ in range(self.number(1, 4))]
        self.weights = self.several(1, 9, len(self.sets), len(self.sets))

    def number(self, least: int, most: int) -> int:
        return int(self._source.integers(least, most + 1))

    def several(self, least: int, most: int, count: int, fewest: int = 1) -> list[int]:
        return self._source.integers(least, most + 1, self.number(fewest, count)).tolist()


def mixture(
    sets: Sequence[Shards], weights: Sequence[int], streams: int = 1, held_out: float = 0.0, window: int = 4
) -> Order:
    """The order of several sets, whose ids follow each other."""
    used, shard, sample = [], 0, 0
    for counts in sets:
        used.append(UsedSamples(counts, held_out, None, shard, sample))
        shard, sample = shard + len(counts), sample + sum(counts)
    return Order(used, 3, window, streams, weights)


def source_of(ids: np.ndarray, sets: Sequence[Shards]) -> np.ndarray:
    """The set of each sample."""
    return np.searchsorted(np.cumsum([sum(counts) for counts in sets]), ids, side="right")


@CASES
def test_after_any_turn_each_source_has_had_its_share_to_within_one(case: int) -> None:
    weights = Case(case).several(1, 40, 7)
    turns = share_turns(weights)
    had = np.cumsum(np.tile(turns, 2)[:, None] == np.arange(len(weights)), axis=0)
    due = np.arange(1, 2 * len(turns) + 1)[:, None] * np.array(weights) / sum(weights)
    assert np.abs(had - due).max() < 1


@CASES
def test_streams_share_the_turns_and_use_each_source_at_the_same_rate(case: int) -> None:
    drawn = Case(case)
    weights, streams = drawn.several(1, 40, 7), drawn.number(1, 12)
    turns = share_turns(weights)
    dealt = np.stack([turns_of_stream(turns, number, streams) for number in range(streams)])
    for place in range(1, len(turns) + 1):
        together = np.bincount(dealt[:, :place].ravel(), minlength=len(weights))
        assert (
            together.tolist()
            == np.bincount(np.tile(turns, streams)[: place * streams], minlength=len(weights)).tolist()
        )
    assert all(sorted(own) == sorted(turns) for own in dealt.tolist())


@CASES
def test_each_sample_is_used_once_per_epoch_of_its_source(case: int) -> None:
    sets, weights = Case(case).sets, Case(case).weights
    order = mixture(sets, weights)
    drawn = order.batch(0, RankRows(0, 400, 400))
    sources = source_of(drawn.ids, sets)
    for number, counts in enumerate(sets):
        ids, epochs = drawn.ids[sources == number], drawn.epochs[sources == number]
        first = sum(map(sum, sets[:number]))
        for epoch in range(len(ids) // sum(counts)):
            assert sorted(ids[epochs == epoch]) == list(range(first, first + sum(counts)))
        had = np.cumsum(sources == number)
        assert np.abs(had - np.arange(1, 401) * weights[number] / sum(weights)).max() < 1


@pytest.mark.parametrize("weight", [2, 3, 5])
@pytest.mark.parametrize("streams", [2, 3, 4])
def test_with_streams_batches_have_the_shares_and_streams_keep_their_parts(weight: int, streams: int) -> None:
    sets, batch = [[20] * 6, [15] * 4], 4 * streams
    order = mixture(sets, [weight, 1], streams)
    drawn = np.zeros(2)
    used: list[set[int]] = [set() for _ in range(streams)]
    for number, each in enumerate(islice(order.batches(0, RankRows(0, batch, batch)), 100), 1):
        drawn += np.bincount(source_of(each.ids, sets), minlength=2)
        assert np.abs(drawn - number * batch * np.array([weight, 1]) / (weight + 1)).max() < 1
        for stream, ids in zip(used, each.ids.reshape(streams, -1).tolist(), strict=True):
            stream.update(ids)
    assert sum(map(len, used)) == len(set().union(*used)), "no sample is in two streams"


def test_the_windows_of_a_mixture_hold_what_is_read() -> None:
    sets = [[10] * 12, [7] * 5]
    ends = np.cumsum([count for counts in sets for count in counts])
    for streams in (1, 2):
        order, rows = mixture(sets, [3, 2], streams), RankRows(0, 8, 8)
        for number, batch in enumerate(islice(order.batches(0, rows), 200)):
            now, later = order.windows(8 * number, rows)
            assert set(np.searchsorted(ends, batch.ids, side="right").tolist()) <= {*now, *later}


def test_one_source_of_any_weight_has_the_order_of_its_set() -> None:
    counts = [3, 1, 7, 2, 5, 4]
    alone = order_of(counts, seed=3, shuffle_shards=4, held_out=0.2, streams=2)
    mixed = mixture([counts], [7], streams=2, held_out=0.2)
    assert samples(mixed, 0, 200).tolist() == samples(alone, 0, 200).tolist()
    assert mixed.held_out_ids().tolist() == alone.held_out_ids().tolist()


def test_a_source_holds_out_the_samples_that_it_holds_out_alone() -> None:
    sets = [[50, 30], [60], [40, 40]]
    order, first = mixture(sets, [1, 2, 3], held_out=0.2), 0
    held_out = order.held_out_ids()
    for counts in sets:
        ours = held_out[(held_out >= first) & (held_out < first + sum(counts))] - first
        alone = order_of(counts, seed=9, shuffle_shards=1, held_out=0.2)
        assert ours.tolist() == alone.held_out_ids().tolist()
        first += sum(counts)
    shown = source_of(order.first_held_out(12), sets)
    assert np.bincount(shown).tolist() == [2, 4, 6], "they take turns as in training"
    assert sorted(order.first_held_out(10**6)) == sorted(held_out.tolist())


def test_the_first_samples_end_before_a_source_would_repeat_one() -> None:
    order = mixture([[100], [10]], [1, 1])
    first = order.first(60)
    assert (len(first), len(set(first.tolist()))) == (21, 21)
    assert np.bincount(source_of(first, [[100], [10]])).tolist() == [11, 10]


def test_sources_and_epochs_have_their_own_order() -> None:
    order = mixture([[30], [30]], [1, 1])
    drawn = samples(order, 0, 180)
    orders = [(drawn[drawn < 30]), (drawn[drawn >= 30] - 30)]
    assert orders[0].tolist() != orders[1].tolist()
    assert all(a.tolist() != b.tolist() for own in orders for a, b in pairwise(np.split(own, 3)))

"""The order of samples: each sample once per epoch, the same for any number of ranks, computed without reading."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.format.indexes import load_index
from pipeline.data.format.manifest import load_manifest
from pipeline.data.format.shard_set import open_directory
from pipeline.data.reading.order import BATCHES_AT_ONCE, Batch, flips
from pipeline.data.reading.run_order import build_order, describe_validation, groups_of
from pipeline.data.reading.shuffles import shuffled
from pipeline.errors import ConfigError, DataError
from pipeline.noise import RankRows
from pipeline.option_data import DataOptions
from pipeline.options import Config, ScheduleOptions
from tests.orders import order_of, samples

UNEQUAL = [3, 1, 7, 2, 5, 4]

# The order when it was fixed: a change here changes every run.
FROZEN_START = [16, 12, 11, 13, 14, 17, 15, 5, 8, 10, 6, 3, 4, 7, 9, 18, 2, 19, 21, 20, 1, 0, 13, 17]
FROZEN_FAR = [7, 3, 12, 11, 16, 2, 17, 13]
FROZEN_HELD_OUT = [3, 10, 18, 20, 21]
FROZEN_SHUFFLE = [1, 2, 4, 5, 0, 3]


@pytest.mark.parametrize("counts", [[1], [9], [4, 4, 4], UNEQUAL, [1] * 30, [100, 1]])
def test_every_sample_is_used_once_per_epoch_for_any_window(counts: list[int]) -> None:
    total = sum(counts)
    for window in range(1, len(counts) + 2):
        order = order_of(counts, seed=0, shuffle_shards=window)
        assert order.epoch_size == total
        for epoch in range(3):
            assert sorted(samples(order, epoch * total, total).tolist()) == list(range(total))


def test_a_batch_holds_the_end_of_an_epoch_and_the_next_one() -> None:
    order, total = order_of(UNEQUAL, seed=1, shuffle_shards=2), sum(UNEQUAL)
    batches = order.batches(0, RankRows(0, 5, 5))
    found = [next(batches) for _ in range(total)]
    stream = np.concatenate([batch.ids for batch in found])
    assert np.concatenate([batch.epochs for batch in found]).tolist() == [
        n // total for n in range(5 * total)
    ]
    assert len(stream) == 5 * total
    for epoch in range(5):
        assert sorted(stream[epoch * total : (epoch + 1) * total].tolist()) == list(range(total))


def test_a_batch_may_be_longer_than_an_epoch() -> None:
    order = order_of([2, 3], seed=0, shuffle_shards=1)
    assert np.bincount(samples(order, 0, 20)).tolist() == [4] * 5


def test_any_position_gives_the_same_as_reading_from_the_start() -> None:
    whole = samples(order_of(UNEQUAL, seed=2, shuffle_shards=3, held_out=0.2), 0, 200)
    order = order_of(UNEQUAL, seed=2, shuffle_shards=3, held_out=0.2)
    for position in np.random.default_rng(0).permutation(150).tolist():
        count = position % 50 + 1
        assert samples(order, position, count).tolist() == whole[position : position + count].tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_rows_of_all_ranks_are_the_global_batches(world_size: int) -> None:
    expected = order_of(UNEQUAL, seed=3, shuffle_shards=2).batches(7, RankRows(0, 12, 12))
    slices = [RankRows.of_rank(rank, world_size, 12) for rank in range(world_size)]
    streams = [order_of(UNEQUAL, seed=3, shuffle_shards=2).batches(7, rows) for rows in slices]
    for _ in range(10):
        parts = [next(stream).ids for stream in streams]
        assert [len(part) for part in parts] == [12 // world_size] * world_size
        assert np.concatenate(parts).tolist() == next(expected).ids.tolist()


@pytest.mark.parametrize("counts", [[12], [1, 30, 2, 3], [5] * 9, UNEQUAL])
@pytest.mark.parametrize("streams", [1, 2, 3, 6])
def test_each_stream_uses_each_of_its_samples_once_per_epoch(counts: list[int], streams: int) -> None:
    order = order_of(counts, seed=4, shuffle_shards=3, held_out=0.1, streams=streams)
    parts = []
    for stream in order.streams:
        epoch = stream.samples(0, stream.distinct).tolist()
        again = stream.samples(stream.distinct, stream.distinct).tolist()
        assert sorted(epoch) == sorted(set(epoch)) == sorted(again)
        parts.append(epoch)
    # Their sizes differ by at most one, and together they are the training samples.
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    held_out = set(order.held_out_ids().tolist())
    assert sorted(n for part in parts for n in part) == [n for n in range(sum(counts)) if n not in held_out]


@pytest.mark.parametrize("counts", [[13], UNEQUAL, [3, 4]])
@pytest.mark.parametrize("streams", [1, 2, 3, 4])
def test_the_first_samples_differ_even_if_streams_are_unequal(counts: list[int], streams: int) -> None:
    order = order_of(counts, seed=4, shuffle_shards=3, streams=streams)
    for count in range(1, order.epoch_size + 1):
        assert len(set(order.first(count).tolist())) == count
    assert sorted(order.first(2 * order.epoch_size).tolist()) == list(range(order.epoch_size))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_read_only_their_streams_at_any_world_size(world_size: int) -> None:
    counts, alone = [10] * 40, RankRows(0, 16, 16)
    order = order_of(counts, seed=3, shuffle_shards=8, streams=4)
    for position in range(0, 1600, 16):
        ids, touched = [], []
        for rank in range(world_size):
            rows = RankRows.of_rank(rank, world_size, 16)
            mine = order.batch(position, rows).ids
            shards = set((mine // 10).tolist())
            now, later = order.windows(position, rows)
            assert shards <= {*now, *later}
            ids += mine.tolist()
            touched.append({*now, *later})
        assert ids == order.batch(position, alone).ids.tolist()
        for number, shards in enumerate(touched):
            share = 40 // world_size
            assert shards <= set(range(number * share, (number + 1) * share))


def test_another_batch_size_continues_at_the_same_samples() -> None:
    order = order_of([7] * 12, seed=3, shuffle_shards=4, streams=4)
    stream = [set(samples(order, position, 4).tolist()) for position in range(0, 160, 4)]
    larger = [set(samples(order, position, 8).tolist()) for position in range(0, 160, 8)]
    assert [first | second for first, second in zip(stream[::2], stream[1::2], strict=True)] == larger


def test_flips_are_fair_and_depend_on_seed_epoch_and_sample() -> None:
    ids = np.arange(10_000)

    def tosses(seed: int, epoch: int) -> np.ndarray:
        return flips(seed, Batch(ids, np.full(10_000, epoch)))

    for seed, epoch in ((0, 0), (0, 1), (1, 0), (7, 3)):
        heads = tosses(seed, epoch)
        assert abs(heads.mean() - 0.5) < 0.02
        assert np.array_equal(heads, tosses(seed, epoch))
        assert np.array_equal(flips(seed, Batch(ids[77:90], np.full(13, epoch))), heads[77:90])
    for one, other in (((0, 0), (0, 1)), ((0, 0), (1, 0)), ((0, 1), (1, 0)), ((2, 1), (1, 2))):
        assert abs((tosses(*one) == tosses(*other)).mean() - 0.5) < 0.03


def test_each_seed_and_each_epoch_has_its_own_order() -> None:
    total = 60
    orders = {
        (seed, epoch): tuple(samples(order_of([10] * 6, seed, 3), epoch * total, total).tolist())
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(set(orders.values())) == len(orders)


def test_a_window_mixes_its_shards_evenly() -> None:
    order = order_of([100] * 8, seed=0, shuffle_shards=4)
    shards = samples(order, 0, 800) // 100
    for window in (shards[:400], shards[400:]):
        assert len(set(window.tolist())) == 4
        for part in np.split(window, 4):
            assert np.bincount(part, minlength=8).max() < 45
    assert not set(shards[:400].tolist()) & set(shards[400:].tolist())


def test_samples_within_a_shard_are_shuffled_too() -> None:
    ids = samples(order_of([1000], seed=0, shuffle_shards=1), 0, 1000)
    assert np.abs(np.corrcoef(ids, np.arange(1000))[0, 1]) < 0.1
    assert (np.diff(ids) == 1).sum() < 10


def test_the_shards_that_share_a_window_change_from_epoch_to_epoch() -> None:
    order = order_of([10] * 20, seed=0, shuffle_shards=4)
    first_windows = {frozenset((samples(order, epoch * 200, 40) // 10).tolist()) for epoch in range(10)}
    assert len(first_windows) == 10


def test_the_order_has_not_changed_between_versions() -> None:
    order = order_of(UNEQUAL, seed=7, shuffle_shards=2)
    assert samples(order, 0, 24).tolist() == FROZEN_START
    assert samples(order, 10**9, 8).tolist() == FROZEN_FAR
    assert (
        order_of(UNEQUAL, seed=7, shuffle_shards=2, held_out=0.25).held_out_ids().tolist() == FROZEN_HELD_OUT
    )
    assert shuffled(6, (1, 2, 3)).tolist() == FROZEN_SHUFFLE


def test_distant_positions_need_no_reading_up_to_them() -> None:
    order = order_of([50] * 40, seed=0, shuffle_shards=8)
    far = 10**12 * 2000
    assert sorted(samples(order, far, 2000).tolist()) == list(range(2000))
    assert samples(order, 10**12, 5).tolist() == samples(order, 10**12 - 3, 8)[3:].tolist()


@pytest.mark.parametrize("counts", [[1000] * 10, [1] * 50, UNEQUAL * 20])
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_held_out_samples_are_never_used_in_training(counts: Sequence[int], share: float) -> None:
    order = order_of(counts, seed=0, shuffle_shards=3, held_out=share)
    held_out = set(order.held_out_ids().tolist())
    trained = samples(order, 0, order.epoch_size).tolist()
    assert order.epoch_size == sum(counts) - len(held_out)
    assert sorted(held_out.union(trained)) == list(range(sum(counts)))
    assert not held_out & set(samples(order, 0, 3 * order.epoch_size).tolist())


def test_held_out_samples_are_the_same_for_every_seed_and_window() -> None:
    expected = order_of([100] * 5, 0, 2, held_out=0.1).held_out_ids().tolist()
    assert 0 < len(expected) < 500
    for seed in range(1, 5):
        assert order_of([100] * 5, seed, seed, held_out=0.1).held_out_ids().tolist() == expected


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_about_the_given_share_of_every_shard_is_held_out(share: float) -> None:
    held_out = order_of([10_000] * 10, 0, 4, held_out=share).held_out_ids()
    counts = np.bincount(held_out // 10_000, minlength=10)
    deviation = np.sqrt(10_000 * share * (1 - share))
    assert (np.abs(counts - 10_000 * share) < 4 * deviation).all()


def test_a_larger_share_holds_out_the_same_samples_and_more() -> None:
    smaller, larger = (
        set(order_of([500], 0, 1, held_out=share).held_out_ids().tolist()) for share in (0.1, 0.2)
    )
    assert smaller < larger


def test_nothing_is_held_out_by_default() -> None:
    assert len(order_of(UNEQUAL, 0, 2).held_out_ids()) == 0


def labels(shards: Path) -> np.ndarray:
    """The class index of every sample."""
    return np.concatenate([load_index(shards, shard)[:, 2] for shard in load_manifest(shards).shards])


def config(shards: Path, batch: int = 8, critic_batch: int | None = None, **data: Any) -> Config:
    schedule = ScheduleOptions(steps=1, global_batch=batch, critic_batch=critic_batch)
    return Config(name="x", data=DataOptions(shards=str(shards), **data), schedule=schedule)


@pytest.mark.parametrize("classes", [[7], ["7"], [3, 5], list(range(10))])
def test_only_samples_of_the_chosen_classes_are_used_once_per_epoch(
    classes: list[int | str], digits: Path
) -> None:
    order = build_order(config(digits, classes=classes), open_directory(digits))
    expected = np.flatnonzero(np.isin(labels(digits), [int(name) for name in classes]))
    for epoch in range(2):
        ids = samples(order, epoch * order.epoch_size, order.epoch_size)
        assert sorted(ids.tolist()) == expected.tolist()


def test_only_samples_of_the_chosen_classes_are_held_out(digits: Path) -> None:
    order = build_order(config(digits, classes=[7], validation=0.3), open_directory(digits))
    held_out = order.held_out_ids()
    assert 8 <= len(held_out) < order.epoch_size
    assert set(labels(digits)[held_out]) == {7}
    assert not set(held_out.tolist()) & set(samples(order, 0, order.epoch_size).tolist())


@pytest.mark.parametrize(("share", "batch"), [(0.001, 12), (0.02, 64), (0.01, 300)])
def test_a_validation_share_of_less_than_a_batch_becomes_one_batch(
    share: float, batch: int, digits: Path
) -> None:
    options = config(digits, batch, validation=share)
    order = build_order(options, open_directory(digits))
    held_out, asked = order.held_out_ids(), order_of([600], 0, 1, held_out=share).held_out_ids()
    assert (len(held_out), order.epoch_size) == (batch, 600 - batch)
    assert len(asked) < batch
    assert set(asked) < set(held_out), "the same images first, and more of them"
    assert describe_validation(options, order) == (
        f"data.validation: {share} of 600 images is less than one batch of {batch}, so {batch} are held out"
    )
    assert order.training_ids().tolist() == sorted(samples(order, 0, order.epoch_size).tolist())


@pytest.mark.parametrize(("batch", "critic_batch"), [(301, None), (600, None), (100, 501)])
def test_nothing_is_held_out_if_too_little_would_be_left(
    batch: int, critic_batch: int | None, digits: Path
) -> None:
    options = config(digits, batch, critic_batch, validation=0.02)
    order = build_order(options, open_directory(digits))
    assert (len(order.held_out_ids()), order.epoch_size) == (0, 600)
    assert describe_validation(options, order) == (
        f"data.validation: 0.02 of 600 images is less than one batch of {batch}, so no image is held out: too few "
        "would be left to train on"
    )


def test_a_validation_share_of_a_batch_or_more_stays_as_it_is(digits: Path) -> None:
    options = config(digits, 8, validation=0.02)
    order = build_order(options, open_directory(digits))
    assert order.held_out_ids().tolist() == order_of([600], 0, 1, held_out=0.02).held_out_ids().tolist()
    assert len(order.held_out_ids()) >= 8
    assert describe_validation(options, order) is None


def test_shards_without_samples_of_the_chosen_classes_are_skipped() -> None:
    ends = np.cumsum(UNEQUAL)

    class Chosen:
        count = 1

        def of(self, shard: int) -> np.ndarray:
            ids = np.arange(ends[shard] - UNEQUAL[shard], ends[shard])
            return np.where(np.isin(ids, [4, 5, 21]), 0, -1).astype(np.int32)

    for window in range(1, len(UNEQUAL) + 1):
        order = order_of(UNEQUAL, seed=0, shuffle_shards=window, groups=Chosen())
        assert sorted(samples(order, 3, 3).tolist()) == [4, 5, 21]


def test_choosing_all_classes_gives_the_order_of_the_whole_set(digits: Path) -> None:
    manifest = open_directory(digits)
    everything = build_order(config(digits, classes=list(range(10))), manifest)
    assert (
        samples(everything, 0, 900).tolist()
        == samples(build_order(config(digits), manifest), 0, 900).tolist()
    )


def test_unknown_classes_are_refused_with_the_known_ones(digits: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"data\.classes: the shards have no class 12, cat\. Their classes: 0, 1, 2"
    ):
        groups_of(["7", "12", "cat"], open_directory(digits).manifest)


@pytest.mark.parametrize(("batch", "critic_batch"), [(100, None), (8, 100)])
def test_classes_with_too_few_images_for_a_batch_are_refused(
    batch: int, critic_batch: int | None, digits: Path
) -> None:
    with pytest.raises(DataError, match=r"has \d\d training images, fewer than one batch of 100"):
        build_order(config(digits, batch, critic_batch, classes=[7]), open_directory(digits))


@pytest.mark.parametrize("streams", [1, 4])
@pytest.mark.parametrize("rank", [0, 2])
def test_consecutive_batches_equal_those_at_their_positions(streams: int, rank: int) -> None:
    """Batches are planned several at a time, and a run can be resumed in the middle of a plan."""
    order = order_of([40, 60, 50], seed=3, shuffle_shards=2, streams=streams)
    rows = RankRows.of_rank(rank, 3, 12)
    for start in (0, 12 * 7):
        for number, batch in enumerate(islice(order.batches(start, rows), 3 * BATCHES_AT_ONCE)):
            alone = order.batch(start + 12 * number, rows)
            assert batch.ids.tolist() == alone.ids.tolist()
            assert batch.epochs.tolist() == alone.epochs.tolist()

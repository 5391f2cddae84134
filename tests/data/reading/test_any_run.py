"""Whatever the sets, weights, classes and streams: each sample once per epoch, the same on any ranks and after kills.

Hypothesis draws the runs, always the same ones (`derandomize`), and shows the one that breaks a promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice, pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.data.originals.opening import open_data
from pipeline.data.reading.loader import Loader
from pipeline.data.reading.order import Order
from pipeline.data.reading.reader import ShardReader
from pipeline.data.reading.run_order import build_order
from pipeline.data.reading.stream import Ids
from pipeline.data.reading.used_samples import UsedSamples
from pipeline.noise import RankRows
from pipeline.option_data import DataOptions
from pipeline.options import Config, ScheduleOptions
from tests.data.originals.corpus import pack, picture
from tests.shards import Given, write

WORLD_SIZES = range(1, 9)
EPOCHS = 5
drawn = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    # Not shrunk: that takes minutes, and what is drawn is small.
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.differing_executors],
)
few, fewest = settings(drawn, max_examples=10), settings(drawn, max_examples=3)


class DrawnGroups:
    """Classes of samples that are given."""

    def __init__(self, of: list[np.ndarray], count: int) -> None:
        self._of, self.count = of, count

    def of(self, shard: int) -> np.ndarray:
        return self._of[shard]


class Run(NamedTuple):
    """The options of an order, and how it is built anew, as a process that starts does."""

    build: Callable[[], Order]
    weights: list[int]
    streams: int
    sources: list[set[int]]
    """The ids of each source's training samples."""


@st.composite
def mixtures(draw: st.DrawFn) -> Run:
    """Some sets with weights, of which a share is held out."""
    counts = st.lists(st.integers(5, 12), min_size=1, max_size=4)
    sets = draw(st.lists(counts, min_size=1, max_size=3))
    weights = draw(st.lists(st.integers(1, 7), min_size=len(sets), max_size=len(sets)))
    # With this share no set has fewer samples left than there are streams.
    streams, held_out = draw(st.integers(1, 3)), draw(st.sampled_from([0.0, 0.05]))
    seed, window = draw(st.integers(0, 2**31)), draw(st.integers(1, 12))

    def build() -> Order:
        used, shard, sample = [], 0, 0
        for each in sets:
            used.append(UsedSamples(each, held_out, None, shard, sample))
            shard, sample = shard + len(each), sample + sum(each)
        return Order(used, seed, window, streams, weights)

    ends = np.cumsum([0, *map(sum, sets)]).tolist()
    left_out = set(build().held_out_ids().tolist())
    sources = [set(range(first, end)) - left_out for first, end in pairwise(ends)]
    return Run(build, weights, streams, sources)


@st.composite
def balanced(draw: st.DrawFn) -> Run:
    """One set with classes of equal shares, and some samples of none."""
    classes, streams = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    counts = draw(st.lists(st.integers(10, 25), min_size=1, max_size=4))
    labels = np.random.default_rng(draw(st.integers(0, 2**31))).integers(
        -1, classes, sum(counts), dtype=np.int32
    )
    labels[: 3 * classes] = np.repeat(np.arange(classes), 3)[: len(labels)]
    of = np.split(labels, np.cumsum(counts)[:-1])
    present = [place for place in range(classes) if np.count_nonzero(labels == place) >= streams]
    weights = [int(place in present) for place in range(classes)]
    seed = draw(st.integers(0, 2**31))

    def build() -> Order:
        return Order([UsedSamples(counts, 0.0, DrawnGroups(of, classes))], seed, 4, streams, weights)

    sources = [set(np.flatnonzero(labels == place).tolist()) for place in present]
    return Run(build, [1] * len(sources), streams, sources)


def ids_of(order: Order, world: int, batch: int, start: int, count: int) -> list[Ids]:
    """The ids of `count` global batches from a position on, put together from what each rank reads."""
    ranks = [RankRows.of_rank(rank, world, batch) for rank in range(world)]
    found = [[each.ids for each in islice(order.batches(start, rows), count)] for rows in ranks]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


@drawn
@given(st.one_of(mixtures(), balanced()))
def test_each_sample_is_used_once_per_epoch_of_its_source(run: Run) -> None:
    order = run.build()
    size = sum(run.weights) * run.streams * max(map(len, run.sources)) * EPOCHS
    ids = order.batch(0, RankRows(0, size, size)).ids.reshape(run.streams, -1)
    for source in run.sources:
        used = [[sample for sample in part if sample in source] for part in ids.tolist()]
        # Streams have parts of the source of their own, which differ by one sample at most.
        parts = [sorted(set(each)) for each in used]
        assert sorted(sample for part in parts for sample in part) == sorted(source)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        for own, each in zip(parts, used, strict=True):
            for first in range(0, len(each) - len(own) + 1, len(own)):
                assert sorted(each[first : first + len(own)]) == own


@drawn
@given(st.one_of(mixtures(), balanced()))
def test_each_source_has_had_its_share_to_within_one(run: Run) -> None:
    batch = 6 * run.streams
    ids = np.concatenate(ids_of(run.build(), 1, batch, 0, 40))
    source_of = {sample: number for number, source in enumerate(run.sources) for sample in source}
    found = np.array([source_of[sample] for sample in ids.tolist()])
    for end in range(batch, len(found) + 1, batch):
        had = np.bincount(found[:end], minlength=len(run.weights))
        assert np.abs(had - end * np.array(run.weights) / sum(run.weights)).max() < 1


@few
@given(st.one_of(mixtures(), balanced()), st.data())
def test_ids_of_five_epochs_are_the_same_on_any_ranks_and_after_kills(run: Run, data: st.DataObject) -> None:
    whole = run.build()
    for world in WORLD_SIZES:
        batch = math.lcm(world, run.streams) * data.draw(st.integers(1, 3), "rows")
        count = -(-EPOCHS * whole.epoch_size // batch)
        expected = ids_of(whole, 1, batch, 0, count)
        # Killed at any batch, and begun again by other processes.
        stop = data.draw(st.integers(0, count - 1), "stop")
        found = ids_of(run.build(), world, batch, stop * batch, count - stop)
        assert np.array_equal(np.concatenate(found), np.concatenate(expected[stop:]))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The options of sets: tar files of others by a pattern, shards, a mixture, and balanced classes."""
    folder = tmp_path_factory.mktemp("any")
    for number in range(3):
        kinds = ("JPEG", "PNG", "WEBP")
        members = [(f"{n}.{kinds[n % 3].lower()}", picture(7 * number + n, kinds[n % 3])) for n in range(7)]
        (folder / f"part-{number}.tar").write_bytes(pack(members))
    pixels = np.random.default_rng(0).integers(0, 256, (17, 9, 14, 3), dtype=np.uint8)
    labels: list[int | None] = [number % 3 // 2 for number in range(17)]
    write(Given(pixels, labels, ("cat", "dog")), folder / "shards", (9, 14), samples_per_shard=5)
    pattern, shards = str(folder / "part-{0..2}.tar"), str(folder / "shards")
    return {
        "kept": {"directory": str(folder / "kept")},
        "pattern": {"shards": pattern},
        "mixture": {"mix": [{"shards": pattern, "weight": 2}, {"shards": shards, "weight": 3}]},
        "balance": {"shards": shards, "balance": "classes"},
        "rectangles": {"shards": shards},
    }


@fewest
@given(data=st.data())
@pytest.mark.parametrize("kind", ["pattern", "mixture", "balance", "rectangles"])
def test_pixels_of_five_epochs_are_the_same_on_any_ranks_and_after_kills(
    kind: str, places: dict[str, Any], data: st.DataObject
) -> None:
    fit = data.draw(st.sampled_from(["crop", "fit", "pad", "random_crop"]), "fit")
    form = {"resolution": data.draw(st.sampled_from([[4, 6], [6, 4], [9, 5]]), "shape"), "fit": fit}
    options = DataOptions.model_validate({**places[kind], **form, "remote": places["kept"]})
    seed, shards = data.draw(st.integers(0, 2**31), "seed"), open_data(options)
    config = Config(name="x", seed=seed, data=options, schedule=ScheduleOptions(steps=1, global_batch=8))
    order = build_order(config, shards)
    whole = ShardReader(shards, seed)
    for world in WORLD_SIZES:
        batch = world * data.draw(st.integers(1, 3), "rows")
        count = -(-EPOCHS * order.epoch_size // batch)
        stop = data.draw(st.integers(0, count - 1), "stop")
        alone = islice(order.batches(stop * batch, RankRows(0, batch, batch)), count - stop)
        expected = [whole.read(each.ids, each.epochs) for each in alone]
        ranks = []
        for rank in range(world):
            rows = RankRows.of_rank(rank, world, batch)
            loader = Loader(ShardReader(shards, seed), order, rows, torch.device("cpu"))
            staged = islice(loader.batches(stop * batch), count - stop)
            ranks.append([loader.to_pixels(each) for each in staged])
        together = [torch.cat(parts) for parts in zip(*ranks, strict=True)]
        assert torch.equal(torch.cat(together), torch.cat(expected))

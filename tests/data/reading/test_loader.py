"""A rank's batches: the right rows and values, from any start and with any number of threads."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from itertools import chain, islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data.reading.cache import Node, decode_all
from pipeline.data.reading.loader import Images, Loader
from pipeline.data.reading.order import Batch, Order, flips
from pipeline.data.reading.reader import ShardReader
from pipeline.data.reading.stream import Ids
from pipeline.errors import DataError
from pipeline.noise import RankRows
from pipeline.pixels import to_float, to_uint8
from tests import orders, shards

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    out = tmp_path_factory.mktemp("shards")
    shards.write(shards.digits(), out, 8, 1, 300)
    return shards.reader(out)


def order_of(reader: ShardReader) -> Order:
    return orders.order_of([shard.count for shard in reader.manifest.shards], seed=5, shuffle_shards=2)


def batches(
    reader: ShardReader,
    position: int = 0,
    rows: RankRows | None = None,
    workers: int = 0,
    images: Images | None = None,
) -> Iterator[Tensor]:
    rows = rows or RankRows(0, 12, 12)
    loader = Loader(images or reader, order_of(reader), rows, CPU, workers)
    return map(loader.to_images, loader.batches(position))


def test_every_grey_level_survives_conversion_to_float_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    scaled = to_float(levels)
    assert scaled.dtype == torch.float32
    assert (scaled[0], scaled[255]) == (-1.0, 1.0)
    assert (scaled.diff() > 0).all()
    assert torch.equal(to_uint8(scaled), levels)


def test_batches_are_this_ranks_rows_as_floats_in_minus_1_to_1(reader: ShardReader) -> None:
    order = order_of(reader)
    found = list(islice(batches(reader, position=24, rows=RankRows(4, 3, 12)), 3))
    for number, batch in enumerate(found):
        ids = order.batch(24 + 12 * number, RankRows(0, 12, 12)).ids[4:7]
        assert batch.dtype == torch.float32
        assert batch.shape == (3, 1, 8, 8)
        assert torch.equal(batch, to_float(reader.read(ids)))
    together = torch.cat(found)
    assert (together.min(), together.max()) == (-1.0, 1.0)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_the_batches_of_all_ranks_are_the_batch_of_one_process(reader: ShardReader, world_size: int) -> None:
    alone = batches(reader)
    ranks = [batches(reader, rows=RankRows.of_rank(rank, world_size, 12)) for rank in range(world_size)]
    for _ in range(4):
        assert torch.equal(torch.cat([next(rank) for rank in ranks]), next(alone))


def test_batches_do_not_depend_on_the_number_of_threads(reader: ShardReader) -> None:
    rows = RankRows(6, 6, 12)
    here = list(islice(batches(reader, 60, rows), 10))
    stream = batches(reader, 60, rows, workers=2)
    for expected in here:
        assert torch.equal(next(stream), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_sample_is_one_line_with_and_without_threads(
    reader: ShardReader, tmp_path: Path, workers: int
) -> None:
    assert reader.shards.directory is not None
    damaged = shutil.copytree(reader.shards.directory, tmp_path / "damaged")
    path = damaged / reader.manifest.shards[0].name
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DataError) as caught:
        list(islice(batches(shards.reader(damaged), workers=workers), 150))
    assert str(caught.value).startswith("Sample ")
    assert len(str(caught.value).splitlines()) == 1


def test_batches_do_not_depend_on_the_cache(reader: ShardReader) -> None:
    images = decode_all(reader, Node(), show_progress=False)
    for cached, read in islice(zip(batches(reader, images=images), batches(reader), strict=True), 5):
        assert torch.equal(cached, read)


@pytest.mark.parametrize("skipped", [1, 149, 200])
def test_batches_from_a_later_position_are_the_same(reader: ShardReader, skipped: int) -> None:
    later = batches(reader, position=12 * skipped)
    for expected in islice(batches(reader), skipped, skipped + 3):
        assert torch.equal(next(later), expected)


def test_single_samples_are_read_like_a_batch(reader: ShardReader) -> None:
    loader = Loader(reader, order_of(reader), RankRows(0, 1, 1), CPU)
    ids = np.array([1796, 3])
    assert torch.equal(loader.read(ids).images, to_float(reader.read(ids)))


def test_only_chosen_images_are_mirrored_left_to_right(reader: ShardReader) -> None:
    order = order_of(reader)
    resident = decode_all(reader, Node(), show_progress=False)
    sources: list[tuple[Images, int]] = [(reader, 0), (reader, 2), (resident, 0)]
    for images, workers in sources:
        loader = Loader(images, order, RankRows(0, 12, 12), CPU, workers, flip_seed=3)
        for number, batch in enumerate(map(loader.to_images, islice(loader.batches(0), 4))):
            planned = order.batch(12 * number, RankRows(0, 12, 12))
            turned = flips(3, planned)
            assert 0 < turned.sum() < 12
            straight = to_float(reader.read(planned.ids))
            for row in range(12):
                assert torch.equal(batch[row], straight[row].flip(2) if turned[row] else straight[row])


class Watching:
    """Images that record which shards were announced before each read."""

    def __init__(self, reader: ShardReader) -> None:
        self.reader, self.image_shape = reader, reader.image_shape
        self.announced: list[tuple[list[int], list[int]]] = []

    def expect(self, now: list[int], later: list[int]) -> None:
        self.announced.append((now, later))

    def await_shards(self, numbers: list[int]) -> None:
        self.reader.await_shards(numbers)

    def read(self, ids: Ids, epochs: Ids | None = None) -> Tensor:
        return self.reader.read(ids, epochs)


def test_each_window_announces_its_shards_and_the_next_ones_once(reader: ShardReader) -> None:
    images = Watching(reader)
    list(islice(batches(reader, images=images), 149))
    # 6 shards in windows of 2: three windows per epoch of 149.75 batches, and each announces the next one.
    assert len(images.announced) == 3
    for (_, later), (now, _) in pairwise(images.announced):
        assert later == now
    assert sorted(chain.from_iterable(now for now, _ in images.announced)) == list(range(6))


@pytest.mark.parametrize(
    ("most_bytes", "ahead"), [(1 << 29, 8), (5 * 12 * 64, 5), (5 * 12 * 64 - 1, 4), (1, 2)]
)
def test_batches_ahead_are_limited_by_their_bytes(
    reader: ShardReader, most_bytes: int, ahead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of 12 images of 8 x 8 has 768 bytes, and two threads decode up to eight batches ahead."""
    monkeypatch.setattr("pipeline.data.reading.loader.MOST_BYTES_AHEAD", most_bytes)
    order = order_of(reader)
    planned, taken = order.batches(0, RankRows(0, 12, 12)), []

    def count(*_: object) -> Iterator[Batch]:
        for batch in planned:
            taken.append(batch)
            yield batch

    monkeypatch.setattr(order, "batches", count)
    stream = Loader(reader, order, RankRows(0, 12, 12), CPU, workers=2).batches(0)
    next(stream)
    assert len(taken) == ahead
    next(stream)
    assert len(taken) == ahead + 1
    stream.close()  # type: ignore[attr-defined]


def test_a_closed_loader_leaves_no_thread(reader: ShardReader) -> None:
    loader = Loader(reader, order_of(reader), RankRows(0, 12, 12), CPU, workers=2)
    stream = loader.batches(0)
    next(stream)
    assert [thread for thread in threading.enumerate() if thread.name.startswith("decode")]
    stream.close()  # type: ignore[attr-defined]
    for thread in threading.enumerate():
        if thread.name.startswith("decode"):
            thread.join(5)
            assert not thread.is_alive()

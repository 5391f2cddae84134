"""Several shard sets as one, and classes of equal shares: the same pixels, classes by their names, clear refusals."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.data.format.open_shards import open_shards
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.reading.cache import Node, decode_all
from pipeline.data.reading.loader import Images, Loader
from pipeline.data.reading.order import Order
from pipeline.data.reading.reader import ShardReader
from pipeline.data.reading.run_order import build_order, class_names, describe_sources
from pipeline.errors import ConfigError, DataError
from pipeline.noise import RankRows
from pipeline.option_data import DataOptions, MixOptions
from pipeline.options import Config, ScheduleOptions
from pipeline.training.identity import identity_of
from tests.shards import Given, noise, reader, write

CLASSES = {"a": ("cat", "dog"), "b": ("dog", "fox")}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sets in different encodings, with 60 and 30 images of two classes each, of which they share one."""
    places = {}
    for name, count, encoding in (("a", 60, "png"), ("b", 30, "raw")):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        # A fifth of the images are of the first class.
        labels: list[int | None] = [int(number % 5 > 0) for number in range(count)]
        places[name] = tmp_path_factory.mktemp("sets") / name
        write(
            Given(pixels, labels, CLASSES[name], name), places[name], samples_per_shard=7, encoding=encoding
        )
    return places


def config(**data: Any) -> Config:
    return Config(name="x", data=DataOptions(**data), schedule=ScheduleOptions(steps=1, global_batch=12))


def mixed(sets: dict[str, Path], *weights: int) -> list[MixOptions]:
    return [
        MixOptions(shards=str(place), weight=weight)
        for place, weight in zip(sets.values(), weights, strict=True)
    ]


def opened(options: Config) -> tuple[ShardSet, Order]:
    shards = open_shards(options.data)
    return shards, build_order(options, shards)


def test_a_mixture_has_the_pixels_of_its_sets_and_classes_by_their_names(sets: dict[str, Path]) -> None:
    shards = open_shards(DataOptions(mix=mixed(sets, 1, 1)))
    shards.check_sizes()
    shards.check_hashes()
    assert shards.manifest.classes == ("cat", "dog", "fox")
    assert (shards.manifest.count, shards.is_local, len(shards.sources)) == (90, True, 2)
    whole, ids = ShardReader(shards), np.arange(90)
    parts = [
        reader(place).read(np.arange(count)) for place, count in zip(sets.values(), (60, 30), strict=True)
    ]
    assert torch.equal(whole.read(ids), torch.cat(parts))
    expected = [CLASSES[name][number % 5 > 0] for name in "ab" for number in range(60 if name == "a" else 30)]
    assert class_names(ids, shards) == expected
    assert [shards.manifest.classes[label] for label in whole.labels(ids)] == expected


@pytest.mark.parametrize("options", [{"streams": 2}, {"validation": 0.2, "flip": True}, {"classes": ["dog"]}])
def test_five_epochs_of_pixels_are_the_same_on_any_ranks_with_any_cache(
    options: dict[str, Any], sets: dict[str, Path]
) -> None:
    shards, order = opened(config(mix=mixed(sets, 3, 1), **options))
    whole = ShardReader(shards)
    resident = decode_all(whole, Node(), show_progress=False)
    count = 5 * order.epoch_size // 12

    def batches(images: Images, rows: RankRows, start: int = 0) -> list[Tensor]:
        loader = Loader(images, order, rows, torch.device("cpu"), 0, 5 if options.get("flip") else None)
        staged = islice(loader.batches(12 * start), count - start)
        return [loader.to_pixels(each).clone() for each in staged]

    expected = batches(resident, RankRows(0, 12, 12))
    for size in (1, 2, 3, 4):
        start = count * size // 5
        ranks = [batches(whole, RankRows.of_rank(rank, size, 12), start) for rank in range(size)]
        together = [torch.cat(parts) for parts in zip(*ranks, strict=True)]
        assert torch.equal(torch.cat(together), torch.cat(expected[start:]))


@pytest.mark.parametrize("chosen", [None, ["fox", "dog"]])
def test_balanced_classes_have_equal_shares_at_any_time(
    chosen: list[str] | None, sets: dict[str, Path]
) -> None:
    options = config(shards=str(sets["b"]), balance="classes", classes=chosen, validation=0.1)
    shards, order = opened(options)
    classes = class_names(order.batch(0, RankRows(0, 120, 120)).ids, shards)
    had = np.cumsum([[name == "dog", name == "fox"] for name in classes], axis=0)
    assert np.abs(had - np.arange(1, 121)[:, None] / 2).max() < 1
    alone = build_order(config(shards=str(sets["b"]), validation=0.1), shards)
    assert sorted(order.held_out_ids()) == alone.held_out_ids().tolist()
    assert describe_sources(order, options, shards)[0].startswith(
        "each of 2 classes has the same share of the"
    )


def test_a_set_alone_in_a_mixture_is_that_set(sets: dict[str, Path]) -> None:
    mix = [MixOptions(shards=str(sets["a"]), weight=5)]
    (shards, order), (same, its_order) = (
        opened(config(**data)) for data in ({"mix": mix}, {"shards": str(sets["a"])})
    )
    assert shards.manifest == same.manifest
    rows = RankRows(0, 200, 200)
    assert order.batch(0, rows).ids.tolist() == its_order.batch(0, rows).ids.tolist()
    identities = [
        identity_of(config(**data), shards, "float32") for data in ({"mix": mix}, {"shards": "elsewhere"})
    ]
    assert identities[0] == identities[1]


def test_the_identity_of_a_mixture_is_what_its_sets_hold_and_their_weights(sets: dict[str, Path]) -> None:
    def identity(names: str, *weights: int) -> dict[str, Any]:
        options = config(mix=mixed({str(n): sets[name] for n, name in enumerate(names)}, *weights))
        return identity_of(options, open_shards(options.data), "float32")

    first = identity("ab", 3, 1)
    assert str(sets["a"]) not in str(first), "the sets may have moved"
    assert first == identity("ab", 3, 1)
    for other in (identity("ab", 1, 1), identity("ba", 3, 1), identity("aba", 3, 1, 1)):
        assert {name for name in first if other[name] != first[name]} <= {"data.mix", "data.manifest"}
        assert other["data.mix"] != first["data.mix"]


def test_what_cannot_be_mixed_or_balanced_is_refused(sets: dict[str, Path], tmp_path: Path) -> None:
    write(noise(8, 4, labelled=False), tmp_path / "small", 4)
    mix = [*mixed(sets, 1, 1), MixOptions(shards=str(tmp_path / "small"))]
    with pytest.raises(
        ConfigError, match=r"a holds images of 8 x 8 in colour, and .*small images of 4 x 4 in colour"
    ):
        open_shards(DataOptions(mix=mix))
    resized = ShardReader(open_shards(DataOptions(mix=mix, resolution=4)))
    assert resized.read(np.array([0, 60, 90])).shape == (3, 3, 4, 4)
    with pytest.raises(ConfigError, match=r"data\.balance: the images of .*small have no labels"):
        opened(config(shards=str(tmp_path / "small"), balance="classes"))
    with pytest.raises(DataError, match=r"b has 0 training images, and each source needs at least 1 image, "):
        opened(config(mix=mixed(sets, 1, 1), classes=["cat"]))
    with pytest.raises(
        DataError, match=r"class fox has 24 training images, and each source needs at least 32 "
    ):
        opened(config(shards=str(sets["b"]), balance="classes", streams=32, classes=["fox"]))

"""Labels of batches: those of the shards, at any place, on any ranks, from the reader and from the cache."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data.format.indexes import LABEL
from pipeline.data.format.open_shards import open_shards
from pipeline.data.reading.cache import Node, decode_all
from pipeline.data.reading.class_labels import class_shares, classes_of_run
from pipeline.data.reading.loader import Images, Loader, RealBatch
from pipeline.data.reading.order import Order
from pipeline.data.reading.reader import ShardReader
from pipeline.data.reading.run_order import build_order
from pipeline.errors import ConfigError, DataError
from pipeline.noise import RankRows, labels_from
from pipeline.option_data import DataOptions
from pipeline.options import Config, DcganOptions, ScheduleOptions
from tests.shards import Given, rehash, write

BATCH = 12
NAMES = ("cat", "dog", "fox")


def picture(label: int, count: int) -> np.ndarray[Any, Any]:
    """Images whose brightness tells their class."""
    return np.full((count, 8, 8, 3), 20 + 60 * label, dtype=np.uint8)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Cats, dogs and foxes, 10, 20 and 30; dogs and foxes of another set; images without labels."""
    root = tmp_path_factory.mktemp("sets")
    labels: list[int | None] = [0, 1, 1, 2, 2, 2] * 10
    pixels = np.concatenate([picture(label or 0, 1) for label in labels])
    write(Given(pixels, labels, NAMES), root / "a", samples_per_shard=7)
    others: list[int | None] = [*[0] * 6, *[1] * 18]
    write(Given(np.concatenate([picture(1, 6), picture(2, 18)]), others, NAMES[1:]), root / "b")
    write(Given(pixels, labels, NAMES), root / "gaps", samples_per_shard=60)
    index = np.load(root / "gaps" / "000000.npy")
    index[0, LABEL] = -1
    np.save(root / "gaps" / "000000.npy", index)
    rehash(root / "gaps")
    write(Given(pixels), root / "none")
    return {place.name: place for place in root.iterdir()}


def config(place: Path | None, **data: Any) -> Config:
    where = {} if place is None else {"shards": str(place)}
    return Config(
        name="x",
        data=DataOptions.model_validate({**where, **data}),
        model=DcganOptions(conditional=True),
        schedule=ScheduleOptions(steps=1, global_batch=BATCH),
    )


def batches(found: Config, rows: RankRows, is_resident: bool, start: int = 0) -> list[RealBatch]:
    """25 batches, from a place on."""
    shards = open_shards(found.data)
    images: Images = ShardReader(shards)
    if is_resident:
        images = decode_all(ShardReader(shards), Node(), show_progress=False)
    loader = Loader(images, build_order(found, shards), rows, torch.device("cpu"), 0, 3)
    return [loader.to_batch(staged) for staged in islice(loader.batches(start * BATCH), 25 - start)]


def mixture(sets: dict[str, Path]) -> dict[str, Any]:
    return {"mix": [{"shards": str(sets["a"]), "weight": 2}, {"shards": str(sets["b"])}]}


@pytest.mark.parametrize("case", ["one set", "mixture", "balanced", "some classes"])
def test_labels_are_those_of_the_images_on_any_ranks_from_any_place(case: str, sets: dict[str, Path]) -> None:
    found = {
        "one set": config(sets["a"], validation=0.1),
        "mixture": config(None, **mixture(sets)),
        "balanced": config(sets["b"], balance="classes"),
        "some classes": config(sets["gaps"], classes=["fox", "dog"], streams=2),
    }[case]
    whole = batches(found, RankRows(0, BATCH, BATCH), is_resident=True)
    names = classes_of_run(found, open_shards(found.data).manifest)
    for images, labels in whole:
        assert labels is not None
        assert labels.dtype == torch.int64
        brightness = (images[:, 0, 0, 0] + 1) * 127.5
        assert [NAMES.index(names[label]) for label in labels] == ((brightness - 20) / 60).round().tolist()
    for size, start in ((1, 3), (2, 0), (3, 11)):
        ranks = [batches(found, RankRows.of_rank(rank, size, BATCH), False, start) for rank in range(size)]
        for parts, expected in zip(zip(*ranks, strict=True), whole[start:], strict=True):
            assert expected.labels is not None
            labels = torch.cat([part.labels for part in parts if part.labels is not None])
            assert torch.equal(labels, expected.labels)
            assert torch.equal(torch.cat([part.images for part in parts]), expected.images)


def test_runs_without_classes_read_no_labels(sets: dict[str, Path]) -> None:
    found = config(sets["a"]).model_copy(update={"model": DcganOptions()})
    assert batches(found, RankRows(0, BATCH, BATCH), False)[0].labels is None
    assert classes_of_run(found, open_shards(found.data).manifest) == ()


def shares(found: Config) -> list[float]:
    shards = open_shards(found.data)
    order, names = build_order(found, shards), classes_of_run(found, shards.manifest)
    return class_shares(order, names, found.data.place).round(6).tolist()


def test_classes_are_as_frequent_as_a_run_draws_them(sets: dict[str, Path]) -> None:
    assert shares(config(sets["a"])) == [round(share / 6, 6) for share in (1, 2, 3)]
    assert shares(config(sets["a"], classes=["fox", "cat"])) == [0.25, 0.75]
    assert shares(config(sets["b"], balance="classes")) == [0.5, 0.5]
    # Two of three images are from the first set.
    mixed = [2 / 3 * first + 1 / 3 * second for first, second in ((1 / 6, 0), (1 / 3, 1 / 4), (1 / 2, 3 / 4))]
    assert shares(config(None, **mixture(sets))) == [round(share, 6) for share in mixed]


def test_sets_whose_labels_do_not_suffice_are_refused(sets: dict[str, Path]) -> None:
    with pytest.raises(
        ConfigError, match=r"the images of .*none have no labels. Make the shards of labelled"
    ):
        shares(config(sets["none"]))
    with pytest.raises(DataError, match=r"has 1 image without a label, .* in data.classes"):
        shares(config(sets["gaps"]))
    assert shares(config(sets["gaps"], classes=["dog", "fox"])) == [0.4, 0.6]

    def empty(order: Order) -> None:
        class_shares(order, (*NAMES, "gnu"), "here")

    found = config(sets["a"])
    with pytest.raises(DataError, match=r"here has no training image of 1 class: gnu. Name the others in"):
        empty(build_order(found, open_shards(found.data)))


def test_drawn_labels_have_the_shares_of_their_classes() -> None:
    uniform = (torch.arange(1000) + 0.5) / 1000
    labels = labels_from(uniform, torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64))
    assert torch.bincount(labels).tolist() == [100, 200, 700]
    # Shares whose sum is rounded to less than 1 still have a class for the largest number.
    thirds = torch.full((3,), 0.33333, dtype=torch.float64)
    assert labels_from(torch.tensor([0.0, 0.9999999]), thirds).tolist() == [0, 2]

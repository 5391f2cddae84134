"""The shape at training time: the pixels that `wgan shards make` would store, at any place in any epoch."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import pipeline
from pipeline.data.format.codecs import Encoding
from pipeline.data.format.open_shards import open_shards
from pipeline.data.making.convert import Conversion, convert_image
from pipeline.data.reading.cache import Node, decode_all
from pipeline.data.reading.loader import Loader
from pipeline.data.reading.order import Batch, crops, flips
from pipeline.data.reading.reader import ShardReader
from pipeline.data.sources import Spec, open_source
from pipeline.errors import ConfigError
from pipeline.noise import RankRows
from pipeline.option_data import DataOptions
from tests import shards
from tests.image_files import encoded
from tests.orders import order_of
from tests.shards import Given

HEIGHT, WIDTH, COUNT = 40, 56, 5
SIZES = (8, 32, 64, [24, 40], [40, 56])
STORED: list[tuple[Encoding, int]] = [
    *(("png", channels) for channels in (1, 3, 4)),
    *(("raw", channels) for channels in (1, 3, 4)),
    *(("jpeg", channels) for channels in (1, 3)),
]


def pictures(channels: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> list[bytes]:
    """Smooth images, so that JPEGs and resized ones are not all noise, with parts of any alpha."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (COUNT, 7, 9, 4), dtype=np.uint8)
    images = [Image.fromarray(image, "RGBA").resize(size[::-1]) for image in coarse]
    return [encoded(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])) for image in images]


def opened(directory: Path, **form: Any) -> ShardReader:
    return ShardReader(open_shards(DataOptions(shards=str(directory), **form)), crop_seed=3)


def stored_files(reader: ShardReader) -> Iterator[Any]:
    """The images as `wgan shards make` reads them from these shards."""
    directory, manifest = reader.shards.directory, reader.manifest
    assert directory is not None
    for shard in manifest.shards:
        content = (directory / shard.name).read_bytes()
        for offset, length, *_ in reader.shards.load_index(shard).tolist():
            file = content[offset : offset + length]
            size, channels, encoding = manifest.stored
            yield np.frombuffer(file, np.uint8).reshape(*size, channels) if encoding == "raw" else file


@pytest.mark.parametrize(("encoding", "channels"), STORED)
def test_training_sees_the_pixels_that_make_would_store(
    tmp_path: Path, encoding: Encoding, channels: int
) -> None:
    shards.write(Given(pictures(channels)), tmp_path, (HEIGHT, WIDTH), channels, encoding=encoding)
    files = list(stored_files(opened(tmp_path)))
    for size, fit, wanted in product(SIZES, ("crop", "fit", "pad"), (1, 3, 4)):
        reader = opened(tmp_path, resolution=size, fit=fit, channels=wanted)
        height, width = size if isinstance(size, list) else (size, size)
        assert reader.image_shape == (wanted, height, width)
        conversion = Conversion((height, width), wanted, fit)  # type: ignore[arg-type]
        expected = np.stack([convert_image(file, conversion).pixels for file in files])
        found = reader.read(np.arange(COUNT)).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(found, expected), (size, fit, wanted)


def test_a_set_made_of_the_shards_holds_what_training_on_the_shards_sees(tmp_path: Path) -> None:
    shards.write(Given(pictures(3)), tmp_path / "large", (HEIGHT, WIDTH), encoding="jpeg")
    source = open_source(Spec(str(tmp_path / "large")))
    shards.write(source, tmp_path / "small", (20, 12))
    small = opened(tmp_path / "small").read(np.arange(COUNT))
    assert torch.equal(opened(tmp_path / "large", resolution=[20, 12]).read(np.arange(COUNT)), small)
    dataset = pipeline.open_shards(tmp_path / "large", resolution=(20, 12))
    assert dataset.image_shape == (3, 20, 12)
    assert torch.equal(torch.stack([image for image, _ in dataset]), small)  # type: ignore[attr-defined]


def test_a_form_that_no_data_set_has_is_refused(tmp_path: Path) -> None:
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"resolution": 0}, "resolution: invalid value 0: expected a side in pixels"),
        ({"fit": "random_crop"}, "a data set has no epochs"),
        ({"size": 8}, "size is not an option of a data set: there are resolution, fit, channels"),
    ]
    for form, message in refusals:
        with pytest.raises(ConfigError, match=message):
            pipeline.open_shards(tmp_path, **form)


def test_the_shape_of_the_shards_needs_no_conversion(tmp_path: Path) -> None:
    manifest = shards.write(Given(pictures(3)), tmp_path, (HEIGHT, WIDTH))
    forms: list[dict[str, Any]] = [{}, {"resolution": [HEIGHT, WIDTH]}, {"channels": 3, "fit": "pad"}]
    for form in forms:
        assert open_shards(DataOptions(shards=str(tmp_path), **form)).conversion is None
    small = open_shards(DataOptions(shards=str(tmp_path), resolution=8))
    assert (small.image_shape, small.decoded_bytes) == ((3, 8, 8), manifest.count * 192)


def test_a_cache_holds_the_images_in_the_shape_of_the_run(tmp_path: Path) -> None:
    shards.write(Given(pictures(3)), tmp_path, (HEIGHT, WIDTH))
    reader = opened(tmp_path, resolution=[12, 20], channels=1)
    kept = decode_all(reader, Node(), show_progress=False)
    ids = np.array([3, 0, 4])
    assert kept.image_shape == (1, 12, 20)
    assert torch.equal(kept.read(ids), reader.read(ids))


@pytest.fixture
def gradients(tmp_path: Path) -> Path:
    """23 images whose columns are 0 to 39, apart from their own first row."""
    images = np.broadcast_to(np.arange(40, dtype=np.uint8), (23, 16, 40)).copy()
    images[:, 0] = np.arange(23)[:, None] * 11
    shards.write(Given(images), tmp_path, (16, 40), 1, samples_per_shard=5)
    return tmp_path


def test_a_random_crop_is_a_part_of_the_image_by_seed_epoch_and_sample(gradients: Path) -> None:
    reader, ids = opened(gradients, resolution=16, fit="random_crop"), np.arange(23)
    lefts = set[int]()
    for epoch in range(20):
        images = reader.read(ids, np.full_like(ids, epoch)).numpy()[:, 0]
        assert (np.diff(images[:, 1:].astype(int), axis=2) == 1).all()
        lefts |= set(images[:, 1, 0].tolist())
        some = np.array([7, 2])
        assert np.array_equal(reader.read(some, np.full_like(some, epoch)).numpy()[:, 0], images[some])
    assert lefts == set(range(25))
    assert torch.equal(reader.read(ids), reader.read(ids, np.zeros_like(ids)))
    assert not torch.equal(reader.read(ids), reader.read(ids, np.ones_like(ids)))


def test_the_place_of_a_crop_says_nothing_of_the_flip() -> None:
    batch = Batch(np.arange(20_000), np.arange(20_000) // 7)
    places, flipped = crops(5, batch), flips(5, batch)
    assert (places >= 0).all()
    assert (places < 1).all()
    assert abs(places[flipped].mean() - places[~flipped].mean()) < 0.02
    assert abs(np.histogram(places, 10)[0] - 2000).max() < 200


def stream(directory: Path, world: int, workers: int, batch: int, start: int, seed: int) -> Tensor:
    """All ranks' images of two epochs from a position on."""
    parts = []
    for rank in range(world):
        reader = opened(directory, resolution=[8, 12], fit="random_crop")
        order = order_of([shard.count for shard in reader.manifest.shards], seed, shuffle_shards=2)
        rows = RankRows.of_rank(rank, world, batch)
        loader = Loader(reader, order, rows, torch.device("cpu"), workers, flip_seed=seed)
        batches = map(loader.to_pixels, loader.batches(start))
        parts.append(torch.stack(list(islice(batches, -(-46 // batch)))))
    return torch.cat(parts, 1).flatten(0, 1)[:40]


def test_rectangles_cropped_at_random_are_the_same_for_any_ranks_threads_and_start(gradients: Path) -> None:
    chance = np.random.default_rng(0)
    for _ in range(8):
        seed, batches_before = int(chance.integers(1 << 30)), int(chance.integers(1, 3))
        world = int(chance.choice([2, 3, 4]))
        alone = stream(gradients, 1, 0, 12, 0, seed)
        assert torch.equal(stream(gradients, world, int(chance.integers(3)), 12, 0, seed), alone)
        later = stream(gradients, world, 0, 12, 12 * batches_before, seed)
        assert torch.equal(later[: len(alone) - 12 * batches_before], alone[12 * batches_before :])
        assert alone.shape == (40, 1, 8, 12)


def test_colours_under_no_alpha_are_black_whatever_the_file_holds() -> None:
    hidden = np.zeros((4, 4, 4), np.uint8)
    hidden[:, :, :3], hidden[:2, :, 3] = 200, 255
    content = encoded(Image.fromarray(hidden, "RGBA"))
    converted = convert_image(content, Conversion((4, 4), 4))
    assert converted.content != content
    assert (converted.pixels[:2] == [200, 200, 200, 255]).all()
    assert not converted.pixels[2:].any()
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(converted.content))), converted.pixels)
    again = convert_image(converted.content, Conversion((4, 4), 4))
    assert again.content == converted.content


def test_alpha_weighs_colours_when_images_are_resized() -> None:
    image = np.zeros((8, 8, 4), np.uint8)
    image[:, :4] = (250, 0, 0, 255)
    small = convert_image(encoded(Image.fromarray(image, "RGBA")), Conversion((2, 2), 4, "fit")).pixels
    seen = small[small[:, :, 3] > 0]
    assert (seen[:, 0] > 240).all()
    padded = convert_image(encoded(Image.fromarray(image[:4], "RGBA")), Conversion((8, 8), 4, "pad")).pixels
    assert not padded[:2].any()


def test_alpha_is_not_for_jpegs_and_crops_are_not_drawn_once() -> None:
    with pytest.raises(ConfigError, match="a JPEG has no alpha"):
        Conversion((8, 8), 4, encoding="jpeg")
    with pytest.raises(ConfigError, match="which hold one crop of each image"):
        Conversion((8, 8), 3, "random_crop")

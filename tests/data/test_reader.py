"""Reading samples by id: the pixels that went in come out, and a damaged image is named."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pipeline.data.manifest import Manifest, Shard, load_index, load_manifest
from pipeline.data.reader import ShardReader
from pipeline.data.sources import Sample
from pipeline.data.writer import make_shards
from pipeline.errors import DataError


class Given:
    """A source of the images in one uint8 array (count, side, side[, 3])."""

    name = "given"
    classes = ()
    native_resolution = None
    native_channels = 1

    def __init__(self, images: npt.NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Sample]:
        for number, image in enumerate(self.images):
            yield Sample(str(number), image, None)


def random_images(count: int, channels: int) -> npt.NDArray[np.uint8]:
    shape = (count, 8, 8) if channels == 1 else (count, 8, 8, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def make(out: Path, images: npt.NDArray[np.uint8], per_shard: int = 4) -> Manifest:
    channels = 1 if images.ndim == 3 else 3
    make_shards(Given(images), out, resolution=8, channels=channels, samples_per_shard=per_shard)
    return load_manifest(out)


@pytest.mark.parametrize("channels", [1, 3])
def test_what_went_in_comes_out_in_any_order(tmp_path: Path, channels: int) -> None:
    images = random_images(10, channels)
    reader = ShardReader(tmp_path, make(tmp_path, images))
    assert reader.image_shape == (channels, 8, 8)
    assert reader.image_bytes == channels * 64
    for ids in ([*range(10)], [9, 0, 4, 3], [7, 7, 7], [8]):
        found = reader.read(np.array(ids))
        assert found.dtype == torch.uint8
        expected = images[ids].reshape(len(ids), 8, 8, channels).transpose(0, 3, 1, 2)
        assert np.array_equal(found.numpy(), expected)


def test_no_ids_give_no_images(tmp_path: Path) -> None:
    reader = ShardReader(tmp_path, make(tmp_path, random_images(4, 3)))
    assert reader.read(np.array([], dtype=np.int64)).shape == (0, 3, 8, 8)


def test_a_flipped_bit_is_an_error_that_names_the_sample_or_changes_no_pixel(tmp_path: Path) -> None:
    images = random_images(6, 1)
    manifest = make(tmp_path, images, per_shard=3)
    offset, size, _ = load_index(tmp_path, manifest.shards[1])[2].tolist()
    path, dice = tmp_path / "000001.tar", random.Random(0)
    good = path.read_bytes()
    errors = 0
    bits = [8 * place + dice.randrange(8) for place in range(48, size)]
    # Every bit of the header and the start of the data, and one in each byte after.
    for bit in [*range(8 * 48), *bits]:
        damaged = bytearray(good)
        damaged[offset + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        reader = ShardReader(tmp_path, manifest)
        try:
            assert np.array_equal(reader.read(np.array([5]))[0, 0].numpy(), images[5])
        except DataError as error:
            errors += 1
            message = str(error)
            assert message.startswith(f"Sample 2 of {path} ")
            assert "make the shards again" in message.lower()
        assert np.array_equal(reader.read(np.array([4]))[0, 0].numpy(), images[4])
    assert errors > size // 2


def png(size: tuple[int, int], mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format="png")
    return buffer.getvalue()


def place_in_shard(out: Path, manifest: Manifest, content: bytes) -> Manifest:
    """Make `content` the only sample of the first shard."""
    (out / "000000.tar").write_bytes(content)
    np.save(out / "000000.npy", np.array([[0, len(content), -1]]))
    shard = Shard("000000.tar", 1, len(content), "", "000000.npy", "")
    return replace(manifest, shards=(shard,))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (png((8, 9), "L"), "is damaged: 8 x 9 in mode L instead of 8 x 8 in mode L"),
        (png((9, 8), "L"), "is damaged: 9 x 8 in mode L instead of 8 x 8 in mode L"),
        (png((8, 8), "RGB"), "8 x 8 in mode RGB instead of"),
        (png((8, 8), "LA"), "8 x 8 in mode LA instead of"),
        (png((8, 8), "P"), "8 x 8 in mode P instead of"),
        (png((8, 8), "1"), "8 x 8 in mode 1 instead of"),
        (png((8, 8), "I;16"), "8 x 8 in mode I;16 instead of"),
        (png((8, 8), "L")[:-24], "is damaged: a broken PNG: "),
        (b"GIF89a" + bytes(100), "is damaged: not a PNG. "),
        (b"x", "is damaged: not a PNG. "),
    ],
)
def test_an_image_unlike_the_manifest_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    manifest = make(tmp_path, random_images(4, 1))
    reader = ShardReader(tmp_path, place_in_shard(tmp_path, manifest, content))
    with pytest.raises(DataError, match=r"Sample 0 of .*000000\.tar") as caught:
        reader.read(np.array([0]))
    assert found in str(caught.value)


def test_a_shard_that_is_gone_or_empty_is_named(tmp_path: Path) -> None:
    manifest = make(tmp_path, random_images(8, 1))
    (tmp_path / "000001.tar").unlink()
    reader = ShardReader(tmp_path, manifest)
    reader.read(np.array([0]))
    with pytest.raises(DataError, match=r"000001\.tar cannot be opened: No such file"):
        reader.read(np.array([4]))
    (tmp_path / "000001.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"000001\.tar"):
        reader.read(np.array([4]))

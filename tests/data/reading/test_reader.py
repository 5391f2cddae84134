"""Reading samples by id: the same pixels are read that were written, and a damaged image is named."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import signal
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from pipeline.data.format.codecs import encode
from pipeline.data.format.indexes import load_index
from pipeline.data.format.manifest import Manifest, Shard
from pipeline.errors import DataError
from tests import shards
from tests.image_files import png_with_pixels
from tests.shards import Given


def random_images(count: int, channels: int) -> npt.NDArray[np.uint8]:
    shape = (count, 8, 8) if channels == 1 else (count, 8, 8, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def make(out: Path, images: npt.NDArray[np.uint8], per_shard: int = 4) -> Manifest:
    channels = 1 if images.ndim == 3 else 3
    return shards.write(Given(images), out, 8, channels, per_shard)


@pytest.mark.parametrize("channels", [1, 3])
def test_samples_are_read_in_any_order(tmp_path: Path, channels: int) -> None:
    images = random_images(10, channels)
    reader = shards.reader(tmp_path, make(tmp_path, images))
    assert reader.image_shape == (channels, 8, 8)
    assert reader.image_bytes == channels * 64
    for ids in ([*range(10)], [9, 0, 4, 3], [7, 7, 7], [8]):
        found = reader.read(np.array(ids))
        assert found.dtype == torch.uint8
        expected = images[ids].reshape(len(ids), 8, 8, channels).transpose(0, 3, 1, 2)
        assert np.array_equal(found.numpy(), expected)


def test_no_ids_give_no_images(tmp_path: Path) -> None:
    reader = shards.reader(tmp_path, make(tmp_path, random_images(4, 3)))
    assert reader.read(np.array([], dtype=np.int64)).shape == (0, 3, 8, 8)


def test_a_flipped_bit_anywhere_is_an_error_that_names_the_sample(tmp_path: Path) -> None:
    images = random_images(6, 1)
    manifest = make(tmp_path, images, per_shard=3)
    offset, size, _, _ = load_index(tmp_path, manifest.shards[1])[2].tolist()
    path, dice = tmp_path / "000001.tar", random.Random(0)
    good = path.read_bytes()
    bits = [8 * place + dice.randrange(8) for place in range(48, size)]
    # Every bit of the header and of the start of the data, then one bit of each byte.
    for bit in [*range(8 * 48), *bits]:
        damaged = bytearray(good)
        damaged[offset + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        reader = shards.reader(tmp_path, manifest)
        with pytest.raises(DataError, match=r"Copy the file again, or make the shards again") as caught:
            reader.read(np.array([5]))
        assert str(caught.value).startswith(
            f"Sample 2 of {path} is damaged: its CRC-32 differs from the one in"
        )
        assert np.array_equal(reader.read(np.array([4]))[0, 0].numpy(), images[4])


def png(size: tuple[int, int], mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format="png")
    return buffer.getvalue()


def place_in_shard(out: Path, manifest: Manifest, content: bytes) -> Manifest:
    """Make `content` the only sample of the first shard."""
    (out / "000000.tar").write_bytes(content)
    np.save(out / "000000.npy", np.array([[0, len(content), -1, zlib.crc32(content)]]))
    digest = hashlib.sha256((out / "000000.npy").read_bytes()).hexdigest()
    shard = Shard("000000.tar", 1, len(content), "", "000000.npy", digest)
    return replace(manifest, shards=(shard,))


def test_an_index_that_has_changed_is_refused_when_its_shard_is_first_used(tmp_path: Path) -> None:
    make(tmp_path, random_images(8, 1), per_shard=4)
    reader = shards.reader(tmp_path)
    index = tmp_path / "000001.npy"
    content = bytearray(index.read_bytes())
    content[-8] ^= 1  # of a checksum
    index.write_bytes(content)
    assert len(reader.read(np.arange(4))) == 4
    with pytest.raises(
        DataError, match=r"000001\.npy has SHA-256 .* its content has changed\. Copy it again"
    ):
        reader.read(np.array([4]))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (png((8, 9), "L"), "is damaged: png of 9 x 8 in grey instead of png of 8 x 8 in grey"),
        (png((9, 8), "L"), "is damaged: png of 8 x 9 in grey instead of png of 8 x 8 in grey"),
        (png((8, 8), "RGB"), "is damaged: png of 8 x 8 in colour instead of png of 8 x 8 in grey"),
        (png((8, 8), "LA"), "is damaged: not an 8-bit grey, RGB or RGBA image of the expected encoding"),
        (png((8, 8), "P"), "not an 8-bit grey, RGB or RGBA image"),
        (png((8, 8), "1"), "not an 8-bit grey, RGB or RGBA image"),
        (png((8, 8), "I;16"), "not an 8-bit grey, RGB or RGBA image"),
        (png((8, 8), "L")[:-24], "is damaged: a damaged PNG"),
        (b"GIF89a" + bytes(100), "is damaged: not an 8-bit grey, RGB or RGBA image"),
        (b"x", "is damaged: not an 8-bit grey, RGB or RGBA image"),
    ],
)
def test_an_image_that_differs_from_the_manifest_is_refused(
    tmp_path: Path, content: bytes, found: str
) -> None:
    manifest = make(tmp_path, random_images(4, 1))
    reader = shards.reader(tmp_path, place_in_shard(tmp_path, manifest, content))
    with pytest.raises(DataError, match=r"Sample 0 of .*000000\.tar") as caught:
        reader.read(np.array([0]))
    assert found in str(caught.value)


def jpeg(height: int, width: int) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return encode(pixels, "jpeg", 90)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (jpeg(16, 16), "is damaged: jpeg of 16 x 16 in colour instead of jpeg of 8 x 8 in colour"),
        (jpeg(4, 16), "is damaged: jpeg of 4 x 16 in colour instead of jpeg of 8 x 8 in colour"),
        (jpeg(4, 4), "is damaged: jpeg of 4 x 4 in colour instead of jpeg of 8 x 8 in colour"),
        (jpeg(8, 8)[:-30], "is damaged: a damaged JPEG: "),
        (b"GIF89a" + bytes(100), "is damaged: not an 8-bit grey, RGB or RGBA image"),
    ],
)
def test_a_jpeg_that_differs_from_the_manifest_is_refused(tmp_path: Path, content: bytes, found: str) -> None:
    manifest = shards.write(Given(random_images(4, 3)), tmp_path, encoding="jpeg")
    reader = shards.reader(tmp_path, place_in_shard(tmp_path, manifest, content))
    with pytest.raises(DataError, match=r"Sample 0 of .*000000\.tar") as caught:
        reader.read(np.array([0]))
    assert found in str(caught.value)


def test_small_images_are_decoded_by_few_threads(tmp_path: Path) -> None:
    for side, threads in ((8, 1), (64, 4), (256, 64)):
        source = Given(np.zeros((2, side, side), np.uint8))
        shards.write(source, tmp_path / str(side), side, 1)
        assert shards.reader(tmp_path / str(side)).useful_threads == threads


ROWS_OF_8 = bytes(9) * 8


@pytest.mark.parametrize("threads", [1, 3])
def test_what_libpng_prints_stays_off_the_console(
    tmp_path: Path, threads: int, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = make(tmp_path, random_images(4, 1))
    sound = place_in_shard(tmp_path, manifest, png_with_pixels(8, ROWS_OF_8 + bytes(99)))
    reader = shards.reader(tmp_path, sound)
    with ThreadPoolExecutor(threads) as pool:
        assert all(images.sum() == 0 for images in pool.map(reader.read, [np.array([0])] * 6))
    cut = place_in_shard(tmp_path, manifest, png_with_pixels(8, ROWS_OF_8[:30]))
    with pytest.raises(DataError, match=r"Sample 0 of .*000000\.tar is damaged: a damaged PNG"):
        shards.reader(tmp_path, cut).read(np.array([0]))
    assert capfd.readouterr().err == ""


def test_whatever_a_decoder_raises_names_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: object) -> None:
        raise MemoryError

    reader = shards.reader(tmp_path, make(tmp_path, random_images(4, 1)))
    monkeypatch.setattr("cv2.imdecode", fail)
    with pytest.raises(
        DataError, match=r"Sample 2 of .*a damaged PNG: it asks for more memory than there is"
    ):
        reader.read(np.array([2]))


def test_a_missing_or_empty_shard_is_named(tmp_path: Path) -> None:
    manifest = make(tmp_path, random_images(8, 1))
    (tmp_path / "000001.tar").unlink()
    reader = shards.reader(tmp_path, manifest)
    reader.read(np.array([0]))
    with pytest.raises(DataError, match=r"000001\.tar cannot be opened: No such file"):
        reader.read(np.array([4]))
    (tmp_path / "000001.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"000001\.tar"):
        reader.read(np.array([4]))


@pytest.mark.parametrize(("encoding", "tolerance"), [("png", 0), ("raw", 0), ("jpeg", 40)])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_encoding_returns_the_same_pixels(
    tmp_path: Path, encoding: str, tolerance: int, channels: int
) -> None:
    images = random_images(6, channels)
    shards.write(Given(images), tmp_path, 8, channels, encoding=encoding, quality=100)
    found = shards.reader(tmp_path).read(np.arange(6)).permute(0, 2, 3, 1).numpy()
    difference = np.abs(found.astype(int) - images.reshape(found.shape))
    assert difference.max() <= tolerance


def test_images_may_be_wider_than_tall(tmp_path: Path) -> None:
    shards.write(Given(random_images(3, 3)), tmp_path, (4, 7), 3)
    assert shards.reader(tmp_path).read(np.arange(3)).shape == (3, 3, 4, 7)


def test_a_shard_that_is_cut_while_it_is_read_is_named(tmp_path: Path) -> None:
    images = random_images(4000, 1)
    manifest = make(tmp_path, images, per_shard=4000)
    reader = shards.reader(tmp_path, manifest)
    reader.read(np.array([0]))
    with (tmp_path / "000000.tar").open("r+b") as file:
        file.truncate(manifest.bytes // 2)
    with pytest.raises(DataError, match=r"000000\.tar became shorter while it was read: another program"):
        reader.read(np.array([0, 3999, 1]))
    with pytest.raises(DataError, match=r"000000\.tar has [\d,]+ bytes instead of [\d,]+"):
        reader.read(np.array([0]))


def test_threads_that_read_a_shard_while_it_is_cut_all_get_the_error(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 256, 256, 3), dtype=np.uint8)
    manifest = shards.write(Given(pixels), tmp_path, 256, 3, 64)
    reader, path = shards.reader(tmp_path, manifest), tmp_path / "000000.tar"
    started = threading.Barrier(4)

    def read(number: int) -> str:
        started.wait()
        chance = np.random.default_rng(number)
        while True:
            try:
                reader.read(chance.integers(0, 64, 8))
            except DataError as error:
                return str(error)

    with ThreadPoolExecutor(4) as pool:
        errors = [pool.submit(read, number) for number in range(3)]
        started.wait()
        os.truncate(path, manifest.bytes // 3)
        found = re.compile("became shorter while it was read|has [0-9,]+ bytes instead of")
        assert all(found.search(error.result()) for error in errors)


def test_bus_errors_of_anything_else_end_the_process_as_before(tmp_path: Path) -> None:
    program = (
        "import mmap, os, sys\n"
        "from pipeline.data.format.mapped_file import MappedFile\n"
        "path = sys.argv[1]\n"
        "file = open(path, 'rb')\n"
        "mapped, other = MappedFile(file), mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "os.truncate(path, 0)\n"
        "assert mapped.content.sum() == 0 and mapped.is_cut\n"
        "print('survived', flush=True)\n"
        "other[0]\n"
    )
    (tmp_path / "file").write_bytes(b"x" * 9000)
    command = [sys.executable, "-c", program, str(tmp_path / "file")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (-signal.SIGBUS, "survived\n")


def test_a_truncated_shard_is_refused_before_it_is_read(tmp_path: Path) -> None:
    make(tmp_path, random_images(4, 1))
    with (tmp_path / "000000.tar").open("r+b") as file:
        file.truncate(512)
    with pytest.raises(DataError, match=r"000000\.tar has 512 bytes instead of [\d,]+\. Copy it again"):
        shards.reader(tmp_path).read(np.array([0]))

"""Shard sets of others, whose manifest agrees with all of their files: what training and the check make of them."""

from __future__ import annotations

import hashlib
import io
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.data.format.codecs import Encoding
from pipeline.data.format.manifest import Manifest, Shard
from pipeline.data.format.native_output import hidden_native_output
from pipeline.data.format.shard_set import open_directory
from pipeline.data.format.tar_writer import TarWriter
from pipeline.data.inspecting.check import check_shards
from pipeline.data.reading.reader import ShardReader
from pipeline.errors import DataError
from tests.fuzz.engine import target
from tests.fuzz.targets.images import jpeg_seeds, png_seeds, repair_png

ROWS = [(512, 40, 0, 7), (1536, 40, 1, 7)]


def index(rows: list[tuple[int, int, int, int]]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(rows, dtype=np.int64))
    return stream.getvalue()


def write_set(
    directory: Path, images: list[bytes], encoding: Encoding, stored_index: bytes | None = None
) -> None:
    """Write one shard of these images, 24 x 20 pixels in colour; its index can be any bytes."""
    stream = io.BytesIO()
    tar = TarWriter(stream)
    rows = [
        (tar.add(f"{number}.{encoding}", image), len(image), -1, zlib.crc32(image))
        for number, image in enumerate(images)
    ]
    sha256 = tar.finish()
    stored_index = index(rows) if stored_index is None else stored_index
    (directory / "0.tar").write_bytes(stream.getvalue())
    (directory / "0.npy").write_bytes(stored_index)
    index_sha256 = hashlib.sha256(stored_index).hexdigest()
    shard = Shard("0.tar", len(images), len(stream.getvalue()), sha256, "0.npy", index_sha256)
    manifest = Manifest("fuzz", (24, 20), 3, (), encoding, (shard,))
    (directory / "manifest.json").write_text(manifest.to_json())


def train_and_check(directory: Path, count: int) -> None:
    """Read all samples as training does; the check finds a defect wherever that is refused."""
    shards = open_directory(directory)
    # libpng prints one line about a PNG whose checksums are right and whose compressed pixels are not.
    with hidden_native_output():
        try:
            ShardReader(shards).read(np.arange(count))
        except DataError:
            assert not check_shards(directory).is_valid
            raise


@target("training-png", png_seeds, repair_png)
def train_on_a_png(data: bytes, directory: Path) -> None:
    write_set(directory, [data, png_seeds()[0]], "png")
    train_and_check(directory, 2)


@target("training-jpeg", jpeg_seeds)
def train_on_a_jpeg(data: bytes, directory: Path) -> None:
    write_set(directory, [data], "jpeg")
    train_and_check(directory, 1)


@target("training-raw", lambda: [bytes(24 * 20 * 3), bytes(100)])
def train_on_pixels(data: bytes, directory: Path) -> None:
    write_set(directory, [data], "raw")
    train_and_check(directory, 1)


def index_seeds() -> list[bytes]:
    with TemporaryDirectory() as directory:
        write_set(Path(directory), png_seeds()[:1] * 2, "png")
        return [(Path(directory) / "0.npy").read_bytes(), index(ROWS), index(ROWS[:1]), index([])]


@target("shard-index", index_seeds)
def train_with_an_index(data: bytes, directory: Path) -> None:
    write_set(directory, png_seeds()[:1] * 2, "png", data)
    train_and_check(directory, 2)

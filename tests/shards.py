"""Sources and shard sets that take milliseconds to make."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.format.codecs import Bytes
from pipeline.data.format.file_checks import file_sha256
from pipeline.data.format.manifest import FILE_NAME, Manifest, load_manifest
from pipeline.data.format.shard_files import LocalFiles
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.making.convert import Conversion
from pipeline.data.making.plan import plan_shards
from pipeline.data.making.selection import Selection
from pipeline.data.making.writer import make_shards
from pipeline.data.sources import Picture, Source, Spec, open_source

if TYPE_CHECKING:
    from pipeline.data.reading.reader import ShardReader
# Nothing above imports torch: processes that make shards import this file for its sources.


class Given:
    """A source of the given pictures and, if there are classes, labels."""

    native_resolution = None
    native_channels = 3

    def __init__(
        self,
        pictures: Bytes | list[bytes],
        labels: list[int | None] | None = None,
        classes: tuple[str, ...] = (),
        name: str = "given",
    ) -> None:
        self.pictures, self.labels, self.classes, self.name = pictures, labels, classes, name

    def __len__(self) -> int:
        return len(self.pictures)

    def key(self, position: int) -> str:
        return f"../{position}"

    def label(self, position: int) -> int | None:
        return self.labels[position] if self.labels is not None else None

    def read(self, position: int) -> Picture:
        return self.pictures[position]


def noise(count: int, side: int = 8, channels: int = 3, labelled: bool = True) -> Given:
    """Random images, with the labels even and odd alternating."""
    shape = (count, side, side) if channels == 1 else (count, side, side, channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    labels: list[int | None] | None = [number % 2 for number in range(count)] if labelled else None
    return Given(pixels, labels, ("even", "odd") if labelled else (), "noise")


def digits() -> Source:
    """The 1,797 digits of scikit-learn, 16 x 16 pixels."""
    return open_source(Spec("digits"))


def write(
    source: Source,
    out: Path,
    resolution: int | tuple[int, int] = 8,
    channels: int = 3,
    samples_per_shard: int = 4,
    selection: Selection | None = None,
    **conversion: object,
) -> Manifest:
    """Make a whole shard set in this process."""
    size = resolution if isinstance(resolution, tuple) else (resolution, resolution)
    wanted = Conversion(size, channels, **conversion)  # type: ignore[arg-type]
    plan = plan_shards(source, wanted, selection or Selection(), samples_per_shard)
    manifest = make_shards(plan, out)
    assert manifest is not None
    return manifest


def rehash(out: Path) -> None:
    """Let the manifest have the hashes of the indexes as they are now."""
    manifest = load_manifest(out)
    hashed = [replace(shard, index_sha256=file_sha256(out / shard.index)) for shard in manifest.shards]
    (out / FILE_NAME).write_text(replace(manifest, shards=tuple(hashed)).to_json())


def reader(directory: Path, manifest: Manifest | None = None) -> ShardReader:
    """A reader of the shards in a directory, which are not checked first."""
    from pipeline.data.reading.reader import ShardReader

    return ShardReader(ShardSet(manifest or load_manifest(directory), LocalFiles(directory), directory))

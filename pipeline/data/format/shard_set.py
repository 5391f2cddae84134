"""A set of shards, in a directory or at a URL: its manifest, its files, and the shape in which its images are read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from pipeline.data.format.conversion import PixelConversion
from pipeline.data.format.file_checks import check_hash, check_hashes, check_sizes
from pipeline.data.format.files_of_originals import FilesOfOriginals
from pipeline.data.format.indexes import Index, read_compact_index, read_index, with_classes
from pipeline.data.format.manifest import Manifest, Shard, Stored, load_manifest, parse_manifest
from pipeline.data.format.remote import RemoteFile, check_capacity, fetch_manifest, is_url, remote_set
from pipeline.data.format.shard_files import LocalFiles, ShardFiles
from pipeline.errors import DataError
from pipeline.option_data import DataOptions
from pipeline.option_types import sides_of

EVERYTHING = slice(None)


class Form(NamedTuple):
    """How images are stored, None if they may be of any kind and size; and how they are read, None as they are."""

    stored: Stored | None
    conversion: PixelConversion | None


@dataclass(frozen=True)
class ShardSet:
    """A manifest and the files that it lists. `directory` is None if the set is at a URL.

    `conversion` is how images are read; None as the shards hold them.
    """

    manifest: Manifest
    files: ShardFiles
    directory: Path | None
    conversion: PixelConversion | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of all images as they are read.

        Raises ConfigError for originals, which have any size, if no conversion is asked for.
        """
        form = self.conversion or self.manifest.stored
        return (form.channels, *form.resolution)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of all images as they are read, in pixels."""
        return self.image_shape[1:]

    @property
    def decoded_bytes(self) -> int:
        """The size of all images as they are read, as uint8, in bytes."""
        return self.manifest.count * math.prod(self.image_shape)

    @property
    def sources(self) -> tuple[ShardSet, ...]:
        """The sets that it is a mixture of, whose shards follow each other; itself if it is none."""
        return (self,)

    def form_of(self, number: int) -> Form:
        """How the images of a shard are stored and read."""
        return Form(None if self.manifest.is_of_originals else self.manifest.stored, self.conversion)

    @property
    def is_local(self) -> bool:
        """Whether all files are on disks of this machine, so that none has to be downloaded."""
        return self.directory is not None and not any(shard.is_remote for shard in self.manifest.shards)

    def check_sizes(self, share: slice = EVERYTHING) -> None:
        """Raise DataError unless the local files of these shards are there, with their sizes."""
        if self.directory is not None:
            check_sizes(self.directory, replace(self.manifest, shards=self.manifest.shards[share]))

    def check_hashes(self, share: slice = EVERYTHING, show_progress: bool = False) -> None:
        """Raise DataError unless the local files of these shards have their SHA-256."""
        if self.directory is not None:
            check_hashes(self.directory, self.manifest.shards[share], show_progress)

    def load_index(self, shard: Shard) -> Index:
        """Read the shard's index. Raises DataError if it is damaged or cannot be opened.

        One on a local disk is compared with its hash, as downloaded ones are when they are fetched: the index has the
        checksum of each image.
        """
        where = self.files.where(shard.index)
        with self.files.open(shard.index) as file:
            if self.directory is not None:
                check_hash(file, shard, where)
            if not self.manifest.is_of_originals:
                return read_index(file, shard, where)
            return with_classes(read_compact_index(file, shard, where), self.manifest, where)


def open_set(place: str, options: DataOptions) -> ShardSet:
    """Open the set at a path or URL, to be read in the shape that the options say. Only its manifest is read.

    Raises DataError if the set is missing or its manifest damaged, ConfigError if this kind of URL is not supported or
    if the directory for downloaded shards is too small.
    """
    shards = _open_url(place, options) if is_url(place) else _open_local(Path(place), options)
    return in_shape(shards, options)


def in_shape(shards: ShardSet, options: DataOptions) -> ShardSet:
    """The same set, to be read in the shape that the options ask for."""
    return replace(shards, conversion=conversion_of(options, shards.manifest))


def conversion_of(options: DataOptions, manifest: Manifest) -> PixelConversion | None:
    """How images get the shape that the options ask for; None if the shards hold them in it, or if none is asked for.

    Originals are in colour unless the options say otherwise.
    """
    if manifest.is_of_originals:
        if options.resolution is None:
            return None
        return PixelConversion(sides_of(options.resolution), options.channels or 3, options.fit)
    stored = manifest.stored
    resolution = stored.resolution if options.resolution is None else sides_of(options.resolution)
    channels = options.channels or stored.channels
    if (resolution, channels) == (stored.resolution, stored.channels):
        return None
    return PixelConversion(resolution, channels, options.fit)


def open_directory(directory: Path) -> ShardSet:
    """Open a set on a local disk. Raises DataError unless every file is there and has the size in the manifest."""
    shards = _open_local(directory, DataOptions())
    shards.check_sizes()
    return shards


def _open_local(directory: Path, options: DataOptions) -> ShardSet:
    manifest = load_manifest(directory)
    if not manifest.is_of_originals:
        return ShardSet(manifest, LocalFiles(directory), directory)
    places = {
        shard.name: RemoteFile(shard.name, shard.bytes, shard.sha256)
        for shard in manifest.shards
        if shard.is_remote
    }
    if places:
        check_capacity(manifest, options.remote, max(options.shuffle_shards, options.streams))
    return ShardSet(manifest, FilesOfOriginals(directory, places, options.remote), directory)


def _open_url(url: str, options: DataOptions) -> ShardSet:
    manifest = parse_manifest(fetch_manifest(url, options.remote), f"{url}/manifest.json")
    if manifest.is_of_originals:
        raise DataError(
            f"{url} is an index of tar files, whose manifest names places on other machines. Copy the index to a "
            "directory of this machine, and name that in data.shards."
        )
    check_capacity(manifest, options.remote, max(options.shuffle_shards, options.streams))
    return ShardSet(manifest, remote_set(url, manifest, options.remote), None)

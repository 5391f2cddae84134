"""A set of shards, in a directory or at a URL: its manifest and its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.data.format.file_checks import check_sizes
from pipeline.data.format.files_of_originals import FilesOfOriginals
from pipeline.data.format.indexes import Index, read_compact_index, read_index, with_classes
from pipeline.data.format.manifest import Manifest, Shard, load_manifest, parse_manifest
from pipeline.data.format.remote import RemoteFile, check_capacity, fetch_manifest, is_url, remote_set
from pipeline.data.format.shard_files import LocalFiles, ShardFiles
from pipeline.errors import DataError
from pipeline.option_data import DataOptions


@dataclass(frozen=True)
class ShardSet:
    """A manifest and the files that it lists. `directory` is None if the set is at a URL."""

    manifest: Manifest
    files: ShardFiles
    directory: Path | None

    @property
    def is_local(self) -> bool:
        """Whether all files are on disks of this machine, so that none has to be downloaded."""
        return self.directory is not None and not any(shard.is_remote for shard in self.manifest.shards)

    def load_index(self, shard: Shard) -> Index:
        """Read the shard's index. Raises DataError if it is damaged or cannot be opened."""
        where = self.files.where(shard.index)
        with self.files.open(shard.index) as file:
            if not self.manifest.is_of_originals:
                return read_index(file, shard, where)
            return with_classes(read_compact_index(file, shard, where), self.manifest, where)


def open_shards(options: DataOptions) -> ShardSet:
    """Open the set that the options name, which is no pattern of tar files. Only its manifest is read.

    Raises DataError if the set is missing, damaged or truncated, ConfigError if this kind of URL is not supported or
    if the directory for downloaded shards is too small.
    """
    place = str(options.shards)
    return _open_url(place, options) if is_url(place) else open_directory(Path(place), options)


def open_directory(directory: Path, options: DataOptions | None = None) -> ShardSet:
    """Open a set on a local disk; the options say how originals at a URL are fetched.

    Raises DataError unless every file is there and has the size in the manifest, ConfigError as `open_shards` does.
    """
    manifest = load_manifest(directory)
    check_sizes(directory, manifest)
    if not manifest.is_of_originals:
        return ShardSet(manifest, LocalFiles(directory), directory)
    options = options or DataOptions(shards=str(directory))
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

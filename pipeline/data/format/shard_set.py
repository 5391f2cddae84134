"""A set of shards, in a directory or at a URL: its manifest and its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.data.format.manifest import (
    Index,
    Manifest,
    Shard,
    check_sizes,
    load_manifest,
    parse_manifest,
    read_index,
)
from pipeline.data.format.remote import RemoteFiles, check_capacity, fetch_manifest, is_url
from pipeline.data.format.shard_files import LocalFiles, ShardFiles
from pipeline.option_data import DataOptions, RemoteOptions


@dataclass(frozen=True)
class ShardSet:
    """A manifest and the files that it lists. `directory` is None if the set is at a URL."""

    manifest: Manifest
    files: ShardFiles
    directory: Path | None

    def load_index(self, shard: Shard) -> Index:
        """Read the shard's index. Raises DataError if it is damaged or cannot be opened."""
        with self.files.open(shard.index) as file:
            return read_index(file, shard, self.files.where(shard.index))


def open_shards(options: DataOptions) -> ShardSet:
    """Open the set that the options name. Only its manifest is read.

    Raises DataError if the set is missing, damaged or truncated, ConfigError if this kind of URL is not supported or
    if the directory for downloaded shards is too small.
    """
    if not is_url(options.shards):
        return open_directory(Path(options.shards))
    return _open_url(options.shards, options.remote, max(options.shuffle_shards, options.streams))


def open_directory(directory: Path) -> ShardSet:
    """Open a set on a local disk. Raises DataError unless every file is there and has the size in the manifest."""
    manifest = load_manifest(directory)
    check_sizes(directory, manifest)
    return ShardSet(manifest, LocalFiles(directory), directory)


def _open_url(url: str, options: RemoteOptions, shuffle_shards: int) -> ShardSet:
    manifest = parse_manifest(fetch_manifest(url, options), f"{url}/manifest.json")
    check_capacity(manifest, options, shuffle_shards)
    return ShardSet(manifest, RemoteFiles(url, manifest, options), None)

"""A set of shards, wherever it lies: what its manifest says, and the files themselves."""

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
from pipeline.options import DataOptions, RemoteOptions


@dataclass(frozen=True)
class ShardSet:
    """`directory` is None where the set is at a URL."""

    manifest: Manifest
    files: ShardFiles
    directory: Path | None

    def load_index(self, shard: Shard) -> Index:
        """The shard's index. Raises DataError where it is damaged or cannot be had."""
        with self.files.open(shard.index) as file:
            return read_index(file, shard, self.files.where(shard.index))


def open_shards(options: DataOptions) -> ShardSet:
    """Open the set that the options name; nothing of it but the manifest is read.

    Raises DataError where it is missing, damaged or cut short, ConfigError where the URL is of a kind that is
    not read or the directory for fetched shards is too small.
    """
    if not is_url(options.shards):
        return open_directory(Path(options.shards))
    return _open_url(options.shards, options.remote, max(options.shuffle_shards, options.streams))


def open_directory(directory: Path) -> ShardSet:
    """Open a set on a local disk; every file must be there and have its size."""
    manifest = load_manifest(directory)
    check_sizes(directory, manifest)
    return ShardSet(manifest, LocalFiles(directory), directory)


def _open_url(url: str, options: RemoteOptions, shuffle_shards: int) -> ShardSet:
    manifest = parse_manifest(fetch_manifest(url, options), f"{url}/manifest.json")
    check_capacity(manifest, options, shuffle_shards)
    return ShardSet(manifest, RemoteFiles(url, manifest, options), None)

"""Opens the set that a run names: shards, an index of originals, or tar files by a pattern, which are indexed first."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pipeline import stopping
from pipeline.data.format.remote import is_url
from pipeline.data.format.shard_set import ShardSet, open_shards
from pipeline.durable import storage_errors
from pipeline.errors import RunLockedError
from pipeline.foreign_text import printable
from pipeline.option_data import DataOptions, is_pattern
from pipeline.stdout import say_if_read

SECONDS_BETWEEN_LOOKS = 0.5


def open_data(options: DataOptions) -> ShardSet:
    """Open the set that the options name; tar files are listed anew, and those that are new are indexed.

    Raises DataError, ConfigError or StorageError, as `open_shards` and `index_originals` do.
    """
    return open_shards(settled(options))


def settled(options: DataOptions) -> DataOptions:
    """The same options for a set that exists: instead of a pattern, they name its index, which is made or completed.

    With these, another process opens the same set, and lists nothing. Raises errors as `open_data` does.
    """
    if not is_pattern(options.shards):
        return options
    return options.model_copy(update={"shards": str(_index_of(options))})


def _index_of(options: DataOptions) -> Path:
    # Not above: it imports webdataset, and with it torch.
    from pipeline.data.originals.index_set import Wanted, index_originals

    patterns = [options.shards] if isinstance(options.shards, str) else options.shards
    directory = place_of(options)
    with storage_errors(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    say_if_read(f"the index of {printable(' '.join(patterns))} is kept in {directory}")
    while True:
        try:
            indexed = index_originals(patterns, directory, Wanted(remote=options.remote))
            break
        except RunLockedError:
            # Another job, or another rank of a loop of the user's own, needs the same index.
            stopping.wait(SECONDS_BETWEEN_LOOKS)
    if indexed.changes:
        say_if_read(f"its tar files have changed: {indexed.changes}. Runs on the old ones cannot be resumed")
    return directory


def place_of(options: DataOptions) -> Path:
    """Where the index of a pattern is kept: below the directory for downloaded files, by a hash of the pattern."""
    patterns = [options.shards] if isinstance(options.shards, str) else options.shards
    whole = [pattern if is_url(pattern) else str(Path(pattern).absolute()) for pattern in patterns]
    digest = hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]
    return Path(options.remote.directory).expanduser() / "indexes" / digest

"""Opens the set that a run names: shards, an index of originals, or tar files by a pattern, which are indexed first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pipeline import stopping
from pipeline.data.format.open_shards import open_shards
from pipeline.data.format.remote import is_url
from pipeline.data.format.shard_set import ShardSet
from pipeline.durable import storage_errors
from pipeline.errors import DataError, RunLockedError
from pipeline.foreign_text import printable
from pipeline.option_data import DataOptions, RemoteOptions, is_pattern
from pipeline.stdout import say_if_read

SECONDS_BETWEEN_LOOKS = 0.5
OPTIONS = (
    "Options that begin with -- are those of `wgan shards index PATTERN OUT`: run it with them, and name OUT in "
    "data.shards."
)


def open_data(options: DataOptions) -> ShardSet:
    """Open the set that the options name; tar files are listed anew, and those that are new are indexed.

    Raises DataError, ConfigError or StorageError, as `open_shards` and `index_originals` do.
    """
    return open_shards(settled(options))


def settled(options: DataOptions) -> DataOptions:
    """The same options for a set that exists: instead of a pattern, they name its index, which is made or completed.

    With these, another process opens the same set, and lists nothing. Raises errors as `open_data` does.
    """
    if not options.has_pattern:
        return options
    places = [source.shards for source in options.sources]
    return options.at([str(_index_of(p, options.remote) if is_pattern(p) else p) for p in places])


def _index_of(shards: str | list[str], remote: RemoteOptions) -> Path:
    # Not above: it imports webdataset, and with it torch.
    from pipeline.data.originals.index_set import Wanted, index_originals

    patterns = [shards] if isinstance(shards, str) else shards
    directory = place_of(patterns, remote)
    with storage_errors(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    say_if_read(f"the index of {printable(' '.join(patterns))} is kept in {directory}")
    while True:
        try:
            indexed = index_originals(patterns, directory, Wanted(remote=remote))
            break
        except DataError as error:
            # A remedy that is an option is one of another command.
            raise DataError(f"{error} {OPTIONS}" if " --" in str(error) else str(error)) from None
        except RunLockedError:
            # Another job, or another rank of a loop of the user's own, needs the same index.
            stopping.wait(SECONDS_BETWEEN_LOOKS)
    if indexed.changes:
        say_if_read(f"its tar files have changed: {indexed.changes}. Runs on the old ones cannot be resumed")
    if unused := indexed.remarks.unused_labels:
        say_if_read(f"labels not used: {'; '.join(unused)}. {OPTIONS}")
    return directory


def place_of(patterns: Sequence[str], remote: RemoteOptions) -> Path:
    """Where the index of a pattern is kept: below the directory for downloaded files, by a hash of the pattern."""
    whole = [pattern if is_url(pattern) else str(Path(pattern).absolute()) for pattern in patterns]
    digest = hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]
    return Path(remote.directory).expanduser() / "indexes" / digest

"""Checks a set of originals: each tar file is read again, and compared with its index."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.data.format.indexes import CompactIndex, read_compact_index
from pipeline.data.format.manifest import Shard
from pipeline.data.format.shard_set import ShardSet, open_directory
from pipeline.data.originals.tar_index import Asked, TarIndex, index_tar
from pipeline.data.sources.labels import AUTO, parse_label_choice
from pipeline.data.threads import Advance, in_threads
from pipeline.errors import DataError
from pipeline.foreign_text import printable
from pipeline.wording import counted


def check_originals(directory: Path) -> list[str]:
    """The defects of a set of originals, one line each; tar files at URLs are downloaded for it.

    Raises DataError if the manifest cannot be read or a file is missing, ConfigError if it is of other options.
    """
    shards = open_directory(directory)
    labels, image = (shards.manifest.plan.get(name) for name in ("labels", "image"))
    asked = Asked(AUTO if labels in (None, "auto") else parse_label_choice(str(labels)), image)
    total = shards.manifest.bytes
    with tqdm(total=total, unit="B", unit_scale=True, desc="check", disable=None) as bar:
        found = in_threads(partial(_check, shards, asked), shards.manifest.shards, bar)
        defects = [defect for each in found for defect in each]
    shards.files.close()
    return defects


def _check(shards: ShardSet, asked: Asked, shard: Shard, advance: Advance) -> list[str]:
    where = shards.files.where(shard.index)
    try:
        with shards.files.open(shard.index) as file:
            stored = read_compact_index(file, shard, where)
        with shards.files.open(shard.name) as file:
            found = index_tar(file, shard.name, asked, advance)
    except DataError as error:
        return [str(error)]
    return list(_compare(shard, stored, found))


def _compare(shard: Shard, stored: CompactIndex, found: TarIndex) -> Iterator[str]:
    """How an index differs from the tar file, where images that could not be used are left out."""
    rows, words = found.rows()
    if len(rows) != len(stored.rows):
        yield f"{shard.name}: {counted(len(rows), 'sample')} instead of {shard.count:,}"
        yield from (f"{shard.name}: {printable(name)}: {reason}" for name, reason in found.bad)
        return
    wrong = np.flatnonzero((rows != stored.rows).any(axis=1))
    if len(wrong) or tuple(words) != stored.words:
        first = int(wrong[0]) if len(wrong) else 0
        yield (
            f"{shard.name}: {len(wrong):,} of {counted(len(rows), 'sample')} differ from the index, first sample "
            f"{first}: the file has changed since it was indexed"
        )

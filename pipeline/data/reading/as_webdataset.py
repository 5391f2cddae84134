"""A shard set as a data set of the webdataset library, for training loops of your own.

The library opens URLs by shell commands, follows links, and unpickles some fields when it decodes them. Here it does
none of this: files are opened as everywhere else in this package, and fields that could hold code are left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import webdataset
from webdataset.cache import StreamingOpen

from pipeline.data.format.shard_set import ShardSet, open_shards
from pipeline.option_data import DataOptions

FIELDS = frozenset({"png", "jpg", "jpeg", "webp", "npy", "cls", "json", "txt"})
"""The last part of the names of members that are read. None of them is unpickled by the library's decoders."""


class ShardOpener:
    """Opens shards by their names in the manifest: complete and, if they were fetched, compared with their hashes.

    It can be pickled, and each process opens the set by itself.
    """

    def __init__(self, options: DataOptions) -> None:
        self._options = options
        self._opened: tuple[int, ShardSet] | None = None

    @property
    def shards(self) -> ShardSet:
        """This process's own set: a forked worker must not use the threads and files of its parent."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), open_shards(self._options)
        return self._opened[1]

    def __call__(self, places: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The same places with the open file as `stream`, which is closed when the next one is asked for."""
        for place in places:
            with self.shards.files.open(place["url"]) as stream:
                yield {**place, "stream": stream}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}


def as_webdataset(options: DataOptions, seed: int | None = None) -> Any:
    """A `webdataset.WebDataset` over the set that `options.shards` names. Raises DataError or ConfigError."""
    opener = ShardOpener(options)
    names = [shard.name for shard in opener.shards.manifest.shards]
    dataset = webdataset.WebDataset(
        names,
        shardshuffle=False if seed is None else len(names),
        detshuffle=True,
        seed=seed,
        nodesplitter=webdataset.split_by_node,
        select_files=is_read,
        # A worker may have no shards if there are many workers.
        empty_check=False,
    )
    opens = [number for number, stage in enumerate(dataset.pipeline) if isinstance(stage, StreamingOpen)]
    (place,) = opens
    dataset.pipeline[place] = opener
    return dataset


def is_read(member: str) -> bool:
    """Whether a member of a shard is part of its sample."""
    return member.rpartition(".")[2].lower() in FIELDS

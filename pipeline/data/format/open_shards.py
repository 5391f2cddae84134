"""Opens what a run's options name: a set of shards, or several as one."""

from __future__ import annotations

from pipeline.data.format.mixed_shards import mix
from pipeline.data.format.shard_set import ShardSet, open_set
from pipeline.option_data import DataOptions


def open_shards(options: DataOptions) -> ShardSet:
    """Open the set or the sets that the options name, which are no patterns. Only their manifests are read.

    Raises DataError if one is missing or its manifest damaged; ConfigError if it is at a kind of URL that is not
    supported, if the directory for downloaded shards is too small, or if sets hold images of different shapes.
    """
    places = [str(source.shards) for source in options.sources]
    return mix([open_set(place, options) for place in places], places)

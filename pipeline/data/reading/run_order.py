"""The order of a run's samples, from its options and its shards."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from pipeline.data.format.indexes import LABEL
from pipeline.data.format.manifest import Manifest
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.reading.class_labels import labels_of_run
from pipeline.data.reading.order import Order
from pipeline.data.reading.stream import Ids
from pipeline.data.reading.used_samples import Groups, LabelGroups, UsedSamples, share_for
from pipeline.errors import ConfigError, DataError
from pipeline.foreign_text import printable
from pipeline.option_data import shown_places
from pipeline.options import Config
from pipeline.wording import counted


def build_order(config: Config, shards: ShardSet) -> Order:
    """The order of a run. Raises DataError if there are too few images for one batch, ConfigError for unknown classes.

    If `data.validation` holds out less than a global batch, a whole one is held out, or none if too few images would be
    left to train on. `describe_validation` says so.
    """
    batch, data = config.schedule.real_images, config.data
    groups, labels = _groups(config, shards), labels_of_run(config, shards)

    def ordered(held_out: float) -> Order:
        used = _used_samples(shards, held_out, groups)
        weights = [source.weight for source in data.sources]
        if data.balance is not None:
            # A class without images has no turns.
            weights = [int(count > 0) for count in used[0].training_counts.sum(axis=1).tolist()]
        return Order(used, config.seed, data.shuffle_shards, data.streams, weights, labels)

    order = ordered(data.validation)
    wanted = config.schedule.global_batch
    if data.validation > 0 and order.held_out_count < wanted:
        # An estimate is of whole batches, and of a handful of images it would say nothing.
        left = order.epoch_size + order.held_out_count - wanted
        order = ordered(share_for(order.used, wanted) if left >= max(wanted, batch) else 0.0)
    if order.epoch_size < batch:
        raise DataError(
            f"{data.place} has {counted(order.epoch_size, 'training image')}, fewer than one batch of {batch}. "
            "Lower schedule.global_batch (or critic_batch), or use more images or classes."
        )
    _check_sources(order, config, shards)
    return order


def _used_samples(shards: ShardSet, held_out: float, groups: Groups | None) -> list[UsedSamples]:
    """The samples of each source. Each holds out the same samples as in a run on it alone."""
    found, first_shard, first_id = [], 0, 0
    for source in shards.sources:
        counts = [shard.count for shard in source.manifest.shards]
        found.append(UsedSamples(counts, held_out, groups, first_shard, first_id))
        first_shard, first_id = first_shard + len(counts), first_id + source.manifest.count
    return found


def _groups(config: Config, shards: ShardSet) -> Groups | None:
    """How labels decide what is used: one group of the chosen classes, or one for each; None if they do not."""
    chosen, classes = config.data.classes, shards.manifest.classes
    if config.data.balance is None:
        return None if chosen is None else LabelGroups(shards, groups_of(chosen, shards.manifest))
    if not classes:
        raise ConfigError(
            f"data.balance: the images of {config.data.place} have no labels, so they have no classes to balance. "
            "Remove it, or make the shards of labelled images."
        )
    groups = groups_of(classes if chosen is None else chosen, shards.manifest)
    places = itertools.count()
    return LabelGroups(shards, [-1 if group < 0 else next(places) for group in groups])


def source_names(config: Config, shards: ShardSet) -> list[str]:
    """What the sources of a run's order are called in messages."""
    if config.data.balance is None:
        return [shown_places(source.shards) for source in config.data.sources]
    chosen = config.data.classes
    return [
        f"class {printable(name)}" for name in shards.manifest.classes if chosen is None or name in chosen
    ]


def _check_sources(order: Order, config: Config, shards: ShardSet) -> None:
    """Raise DataError unless each source has a sample for each stream."""
    streams, names = config.data.streams, source_names(config, shards)
    for source in order.sources:
        if source.size < streams:
            needed = counted(streams, "image")
            raise DataError(
                f"{names[source.number]} has {counted(source.size, 'training image')}, and each source needs at least "
                f"{needed}, one for each of data.streams. Leave it out, or lower data.streams."
            )


def describe_sources(order: Order, config: Config, shards: ShardSet) -> list[str]:
    """How the images of a run are drawn from several sources, in a line or a few; nothing for one source."""
    if len(order.sources) == 1:
        return []
    names, total = source_names(config, shards), sum(source.weight for source in order.sources)
    if config.data.balance is not None:
        sizes = [source.size for source in order.sources]
        return [
            f"each of {counted(len(sizes), 'class')} has the same share of the images (data.balance), and "
            f"{min(sizes):,} to {counted(max(sizes), 'image')}"
        ]
    return [
        f"{names[source.number]}: {source.weight} of {counted(total, 'image')} drawn, {source.size:,} in an epoch"
        for source in order.sources
    ]


def describe_validation(config: Config, order: Order) -> str | None:
    """That another share than `data.validation` is held out, and why; None if it is that one."""
    share, batch = config.data.validation, config.schedule.global_batch
    if order.held_out_share == share:
        return None
    held_out = order.held_out_count
    images = counted(order.epoch_size + held_out, "image")
    return f"data.validation: {share} of {images} is less than one batch of {batch}, so " + (
        f"{held_out} are held out" if held_out else "no image is held out: too few would be left to train on"
    )


def groups_of(names: Sequence[str], manifest: Manifest) -> list[int]:
    """For each class of the set 0 if it is one of these, else -1. Raises ConfigError for unknown names."""
    unknown = [name for name in names if name not in manifest.classes]
    if unknown:
        known = ", ".join(manifest.classes) or "none, because its images have no labels"
        raise ConfigError(
            f"data.classes: the shards have no class {', '.join(unknown)}. Their classes: {known}. Name some of "
            "these, or remove data.classes to train on all images."
        )
    return [0 if name in names else -1 for name in manifest.classes]


def class_names(ids: Ids, shards: ShardSet) -> list[str | None]:
    """The name of the class of each sample, None for one without a label."""
    manifest = shards.manifest
    ends = np.cumsum([shard.count for shard in manifest.shards])
    numbers, labels = np.searchsorted(ends, ids, side="right"), np.full(len(ids), -1)
    for number in np.unique(numbers).tolist():
        index = shards.load_index(manifest.shards[number])
        chosen = numbers == number
        labels[chosen] = index[ids[chosen] - (ends[number] - len(index)), LABEL]
    return [manifest.classes[label] if 0 <= label < len(manifest.classes) else None for label in labels]

"""The order of a run's samples, from its options and its shards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.data.format.manifest import Manifest
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.reading.order import Order
from pipeline.data.reading.stream import Ids
from pipeline.data.reading.used_samples import LabelGroups, UsedSamples, share_for
from pipeline.errors import ConfigError, DataError
from pipeline.options import Config
from pipeline.wording import counted


def build_order(config: Config, shards: ShardSet) -> Order:
    """The order of a run. Raises DataError if there are too few images for one batch, ConfigError for unknown classes.

    If `data.validation` holds out less than a global batch, a whole one is held out, or none if too few images would be
    left to train on. `describe_validation` says so.
    """
    batch, data = config.schedule.real_images, config.data
    counts = [shard.count for shard in shards.manifest.shards]
    groups = None if data.classes is None else LabelGroups(shards, groups_of(data.classes, shards.manifest))

    def ordered(held_out: float) -> Order:
        used = UsedSamples(counts, held_out, groups)
        return Order([used], config.seed, data.shuffle_shards, data.streams)

    order = ordered(data.validation)
    wanted = config.schedule.global_batch
    if data.validation > 0 and order.held_out_count < wanted:
        # An estimate is of whole batches, and of a handful of images it would say nothing.
        left = order.epoch_size + order.held_out_count - wanted
        order = ordered(share_for(order.used, wanted) if left >= max(wanted, batch) else 0.0)
    if order.epoch_size < batch:
        raise DataError(
            f"{data.shards} has {counted(order.epoch_size, 'training image')}, fewer than one batch of {batch}. "
            "Lower schedule.global_batch (or critic_batch), or use more images or classes."
        )
    return order


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
        labels[chosen] = index[ids[chosen] - (ends[number] - len(index)), 2]
    return [manifest.classes[label] if 0 <= label < len(manifest.classes) else None for label in labels]

"""The classes of a run that is trained on labels: what they are, which one a sample has, and how often each is drawn.

A label is the place of the sample's class among those of the run. It depends on the sample alone, so that the labels of
a batch are a function of (seed, position), as its images are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.data.format.manifest import Manifest
from pipeline.data.format.shard_set import ShardSet
from pipeline.data.reading.stream import Ids
from pipeline.data.reading.used_samples import LabelGroups, UsedSamples
from pipeline.errors import ConfigError, DataError
from pipeline.foreign_text import printable
from pipeline.options import Config
from pipeline.wording import counted

if TYPE_CHECKING:
    # It imports torch, and `wgan train` compares the classes of a run before it starts ranks.
    from pipeline.data.reading.order import Order

Labels = npt.NDArray[np.int64]
"""int64 (count,), from 0; -1 for a sample without a label."""


def classes_of_run(config: Config, manifest: Manifest) -> tuple[str, ...]:
    """The names of the classes that the networks know, in the order of their labels; none if they know of no labels.

    Raises ConfigError if the images have no labels.
    """
    if not config.model.conditional:
        return ()
    chosen = config.data.classes
    names = tuple(name for name in manifest.classes if chosen is None or name in chosen)
    if not manifest.classes:
        raise ConfigError(
            f"model.conditional: the images of {config.data.place} have no labels. Make the shards of labelled images "
            "(`wgan shards make --help` says where labels are found), or set it to false."
        )
    return names


def labels_of_run(config: Config, shards: ShardSet) -> Callable[[Ids], Labels] | None:
    """The labels of samples by their ids; None if the networks know of no labels."""
    names = classes_of_run(config, shards.manifest)
    if not names:
        return None
    places = {name: place for place, name in enumerate(names)}
    groups = LabelGroups(shards, [places.get(name, -1) for name in shards.manifest.classes])
    counts = np.array([shard.count for shard in shards.manifest.shards])
    ends = np.cumsum(counts)
    starts = ends - counts

    def labels(ids: Ids) -> Labels:
        found, numbers = np.empty(len(ids), dtype=np.int64), np.searchsorted(ends, ids, side="right")
        for number in np.unique(numbers).tolist():
            chosen = numbers == number
            found[chosen] = groups.of(number)[ids[chosen] - starts[number]]
        return found

    return labels


def class_shares(order: Order, names: Sequence[str], place: str) -> npt.NDArray[np.float64]:
    """How often each class is drawn, together 1: float64 (classes,). `place` is where the images are, in messages.

    The labels of all samples are read. Raises DataError if one has no label, or if a class has no training image.
    """
    assert order.labels is not None
    shares, unlabelled, total = np.zeros(len(names)), 0, sum(source.weight for source in order.sources)
    for source in order.sources:
        # Those without a label are counted first.
        training, held_out = (
            sum(
                (np.bincount(order.labels(ids) + 1, minlength=len(names) + 1) for ids in source.ids(ids_of)),
                start=np.zeros(len(names) + 1, dtype=np.int64),
            )
            for ids_of in (UsedSamples.training, UsedSamples.held_out)
        )
        unlabelled += int(training[0] + held_out[0])
        shares += training[1:] / source.size * (source.weight / total)
    if unlabelled:
        raise DataError(
            f"{place} has {counted(unlabelled, 'image')} without a label, and model.conditional: true needs one for "
            "each. Name the classes to train on in data.classes, which leaves out images without one, or set "
            "model.conditional: false."
        )
    if empty := [printable(name) for name, share in zip(names, shares, strict=True) if share == 0]:
        raise DataError(
            f"{place} has no training image of {counted(len(empty), 'class')}: {', '.join(empty[:8])}. Name the others "
            "in data.classes, or lower data.validation."
        )
    return shares

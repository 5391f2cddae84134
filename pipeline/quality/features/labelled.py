"""Labelled shards, split into images to train a classifier on and images to test it with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.data.format.shard_set import ShardSet
from pipeline.data.reading.order import Ids, Order, shuffled
from pipeline.data.reading.reader import ShardReader
from pipeline.errors import DataError

HELD_OUT = 0.1
CHUNK = 1024


def split(shards: ShardSet, where: Path, most: int, seed: int) -> tuple[Ids, Ids]:
    """Ids to train on and others to test with, of each `most` at most, drawn at random.

    Raises DataError where the set has no classes, or too few images.
    """
    manifest = shards.manifest
    if len(manifest.classes) < 2:
        raise DataError(
            f"{where} has {len(manifest.classes) or 'no'} classes, and a classifier needs two or more. Make "
            "shards of a labelled source, such as a directory with a folder for each class."
        )
    counts = [shard.count for shard in manifest.shards]
    order = Order(counts, seed, shuffle_shards=len(counts), held_out=HELD_OUT)
    held_out = order.held_out_ids()
    if len(held_out) == 0:
        raise DataError(
            f"{where} has {manifest.count} images, too few to hold one in {round(1 / HELD_OUT)} out for a test. Make "
            "shards of some hundreds at least."
        )
    # At random, for in the order of a sorted set the first ones are of the first classes alone.
    test = held_out[shuffled(len(held_out), (seed,))][:most]
    return order.first(min(most, order.epoch_size)), test


def read_labels(shards: ShardSet) -> Tensor:
    """The label of every sample: int64 (count,). Raises DataError where one has none."""
    labels = torch.from_numpy(
        np.concatenate([shards.load_index(shard)[:, 2] for shard in shards.manifest.shards])
    )
    if (missing := int((labels < 0).sum())) > 0:
        raise DataError(
            f"{missing:,} of {len(labels):,} images have no label. Make shards of labelled images alone."
        )
    return labels


def read_images(reader: ShardReader, ids: Ids) -> Tensor:
    """uint8 (count, channels, height, width), in the order of the ids."""
    images = torch.empty(len(ids), *reader.image_shape, dtype=torch.uint8)
    for first in tqdm(range(0, len(ids), CHUNK), desc="reading", leave=False, disable=None):
        part = ids[first : first + CHUNK]
        images[first : first + len(part)] = reader.read(part)
    return images

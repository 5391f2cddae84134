"""Labelled shards, split into images that train a classifier and images that test it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from pipeline.data.format.shard_set import ShardSet
from pipeline.data.reading.order import Order
from pipeline.data.reading.reader import ShardReader
from pipeline.data.reading.shuffles import shuffled
from pipeline.data.reading.stream import Ids
from pipeline.data.reading.used_samples import UsedSamples
from pipeline.errors import DataError
from pipeline.pixels import on_white
from pipeline.wording import counted

HELD_OUT = 0.1
CHUNK = 1024


def split(shards: ShardSet, where: Path, most: int, seed: int) -> tuple[Ids, Ids]:
    """Ids of images for training and for the test, at most `most` of each, drawn at random.

    Raises DataError if the set has fewer than two classes, or too few images.
    """
    manifest = shards.manifest
    if len(manifest.classes) < 2:
        found = counted(len(manifest.classes), "class") if manifest.classes else "no classes"
        raise DataError(
            f"{where} has {found}, and a classifier needs two or more. Make shards of a labelled "
            "source, such as a directory with a folder for each class."
        )
    counts = [shard.count for shard in manifest.shards]
    order = Order([UsedSamples(counts, HELD_OUT)], seed, shuffle_shards=len(counts))
    held_out = order.held_out_ids()
    if len(held_out) == 0:
        raise DataError(
            f"{where} has {counted(manifest.count, 'image')}, too few to hold out one in {round(1 / HELD_OUT)} for the "
            "test. Make shards of at least a few hundred."
        )
    # Drawn at random, because in a set that is sorted by class the first images are all of the first classes.
    test = held_out[shuffled(len(held_out), (seed,))][:most]
    return order.first(min(most, order.epoch_size)), test


def read_labels(shards: ShardSet) -> Tensor:
    """The label of every sample: int64 (count,). Raises DataError if any sample has none."""
    labels = torch.from_numpy(
        np.concatenate([shards.load_index(shard)[:, 2] for shard in shards.manifest.shards])
    )
    if (missing := int((labels < 0).sum())) > 0:
        raise DataError(
            f"{missing:,} of {counted(len(labels), 'image')} {'has' if missing == 1 else 'have'} no label, and a "
            "classifier needs one for each. Make shards of labelled images only."
        )
    return labels


def read_images(reader: ShardReader, ids: Ids) -> Tensor:
    """The images of these ids, in their order: uint8 (count, 1 or 3, height, width); those with alpha are on white."""
    channels, height, width = reader.image_shape
    images = torch.empty(len(ids), min(channels, 3), height, width, dtype=torch.uint8)
    for first in tqdm(range(0, len(ids), CHUNK), desc="reading", leave=False, disable=None):
        part = ids[first : first + CHUNK]
        images[first : first + len(part)] = on_white(reader.read(part))
    return images

"""A shard set as a PyTorch data set: any image by its index, with its label."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.format.open_shards import open_shards
from pipeline.data.originals.opening import settled
from pipeline.data.reading.reader import ShardReader
from pipeline.errors import ConfigError
from pipeline.option_data import DataOptions, RemoteOptions
from pipeline.option_mistakes import validated
from pipeline.pixels import channels_first

FORM = ("resolution", "fit", "channels")


class ShardDataset(Dataset[tuple[Tensor, int]]):
    """A map-style data set: `dataset[index]` is an image and its label.

    The image is uint8 (channels, height, width). The label is an index into `classes`, or -1 if the image has none,
    so that torch's default collate makes uint8 (batch, channels, height, width) and int64 (batch,) of a batch. An
    index is the sample's place in the set, from 0; order and shuffling are the DataLoader's. It can be pickled, and
    each worker process opens the shards by itself.
    """

    def __init__(self, options: DataOptions) -> None:
        """Open the set that `options.shards` names. Only its manifest and the sizes of its files are read.

        Raises DataError if the set is missing, damaged or incomplete, ConfigError if it is at a URL of a kind that
        cannot be read.
        """
        self._options = settled(options)
        self._opened: tuple[int, ShardReader] | None = None
        self._reader.shards.check_sizes()
        self._manifest = self._reader.manifest

    @classmethod
    def named(cls, shards: str | list[str], remote: RemoteOptions, form: Mapping[str, Any]) -> Self:
        """The set at `shards`, with images of the form that these options of a config's section data give.

        Raises ConfigError for an option that is wrong, and for random crops, which belong to an epoch.
        """
        if unknown := form.keys() - FORM:
            raise ConfigError(f"{min(unknown)} is not an option of a data set: there are {', '.join(FORM)}.")
        if form.get("fit") == "random_crop":
            raise ConfigError(
                "fit: random_crop draws a part of each image in each epoch, and a data set has no epochs. Use crop."
            )
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in form.items()}
        return cls(validated(DataOptions, {"shards": shards, "remote": remote, **plain}))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty if the images have no labels."""
        return self._manifest.classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image, in pixels."""
        return self._reader.image_shape

    def __len__(self) -> int:
        return self._manifest.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Raises IndexError outside of the set, DataError if the sample is damaged."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Several samples at once: a DataLoader asks for each batch in one call."""
        count = len(self)
        if wrong := [index for index in indices if not -count <= index < count]:
            raise IndexError(f"index {wrong[0]} is outside of a set of {count} images")
        ids = np.array([index % count for index in indices], dtype=np.int64)
        # Decoded with the channels last; a copy makes each image contiguous, and independent of the others.
        images = channels_first(self._reader.read(ids))
        return list(zip(torch.unbind(images), self._reader.labels(ids).tolist(), strict=True))

    @property
    def _reader(self) -> ShardReader:
        """This process's own reader: a forked worker must not use the threads and files of its parent."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), ShardReader(open_shards(self._options))
        return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None}

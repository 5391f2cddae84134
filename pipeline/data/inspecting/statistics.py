"""Statistics of a set: the distribution of pixel values, and the number of images of each class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from pipeline import stopping
from pipeline.cores import available_cores
from pipeline.data.format.codecs import COLOURS, Shape
from pipeline.data.format.indexes import LABEL, SIZE
from pipeline.data.format.manifest import Manifest
from pipeline.data.format.shard_set import ShardSet, in_shape, open_directory
from pipeline.errors import DataError
from pipeline.foreign_text import printable
from pipeline.option_data import DataOptions
from pipeline.wording import counted

BATCH_BYTES = 1 << 23
LOOKED_AT = 64
"""The side, in pixels, of the squares in which images of any size are looked at by default."""
MOST_CLASSES = 40
VALUES = 256
CHANNEL_NAMES = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Statistics:
    """The result of `measure`. Tuples have one entry per channel: grey, or red, green and blue.

    Pixel values are from 0, black, to 1, white; the networks see 2 * value - 1.
    """

    manifest: Manifest
    shape: Shape
    """(height, width, channels) of the images as they were read."""
    histogram: Counts = field(repr=False)
    """int64 (channels, 256): how often each value occurs. All pixel statistics are computed from it."""
    encoded_bytes: int
    """The size of all images as they are stored, in bytes."""
    class_counts: tuple[int, ...]
    """The number of images of each class; empty if the set has no labels."""

    @property
    def mean(self) -> tuple[float, ...]:
        """The mean of each channel, from 0 to 1."""
        return tuple(mean / (VALUES - 1) for mean, _ in self._moments())

    @property
    def std(self) -> tuple[float, ...]:
        """The standard deviation over all pixels of all images, on the scale from 0 to 1."""
        return tuple(deviation / (VALUES - 1) for _, deviation in self._moments())

    @property
    def network_mean(self) -> tuple[float, ...]:
        """The mean of each channel as the networks see it, from -1 to 1."""
        return tuple(2 * mean - 1 for mean in self.mean)

    @property
    def network_std(self) -> tuple[float, ...]:
        """The standard deviation of each channel on the scale from -1 to 1."""
        return tuple(2 * deviation for deviation in self.std)

    @property
    def lowest(self) -> tuple[int, ...]:
        """The smallest stored value of each channel, 0 to 255."""
        return tuple(int(np.flatnonzero(counts)[0]) for counts in self.histogram)

    @property
    def highest(self) -> tuple[int, ...]:
        """The largest stored value of each channel, 0 to 255."""
        return tuple(int(np.flatnonzero(counts)[-1]) for counts in self.histogram)

    @property
    def share_at_0(self) -> tuple[float, ...]:
        """The share of pixels with the value 0: large for drawings on black, and for padded images."""
        return tuple(float(counts[0] / counts.sum()) for counts in self.histogram)

    @property
    def share_at_255(self) -> tuple[float, ...]:
        """The share of pixels with the value 255: large for drawings on white, and for overexposed photos."""
        return tuple(float(counts[-1] / counts.sum()) for counts in self.histogram)

    @property
    def bytes_per_image(self) -> float:
        """The mean size of a stored image, in bytes."""
        return self.encoded_bytes / self.manifest.count

    def _moments(self) -> Iterator[tuple[float, float]]:
        """The mean and standard deviation of each channel, 0 to 255; computed with integers and rounded once."""
        for counts in self.histogram.tolist():
            count = sum(counts)
            total = sum(value * times for value, times in enumerate(counts))
            squares = sum(value * value * times for value, times in enumerate(counts))
            yield total / count, math.sqrt(count * squares - total * total) / count

    def lines(self) -> list[str]:
        """The tables in words."""
        return [*self._describe_set(), "", *self._describe_channels(), *self._describe_classes()]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _describe_set(self) -> Iterator[str]:
        height, width, channels = self.shape
        images = counted(self.manifest.count, "image")
        size = f"of {height} x {width} in {COLOURS[channels]}"
        is_of_any_size = self.manifest.is_of_originals
        yield f"{self.manifest.source}: {images} " + (
            f"of any size, read as those {size}" if is_of_any_size else size
        )
        yield (
            f"{self.manifest.encoding}: {self.bytes_per_image:,.0f} bytes per image on average; "
            f"{math.prod(self.shape):,} when decoded"
        )

    def _describe_channels(self) -> Iterator[str]:
        yield "         mean    std   mean and std in [-1, 1]   min   max     at 0   at 255"
        names = CHANNEL_NAMES[self.shape[2]]
        figures = (self.mean, self.std, self.network_mean, self.network_std, self.lowest, self.highest)
        shares = (self.share_at_0, self.share_at_255)
        for name, mean, std, network_mean, network_std, low, high, zeros, full in zip(
            names, *figures, *shares, strict=True
        ):
            yield (
                f"{name:6}  {mean:.3f}  {std:.3f}          {network_mean:6.3f}   {network_std:.3f}       {low:3}   "
                f"{high:3}   {zeros:6.1%}   {full:6.1%}"
            )

    def _describe_classes(self) -> Iterator[str]:
        if not self.class_counts:
            return
        chosen, title = choose_classes(self.class_counts)
        names = [printable(self.manifest.classes[label]) for label in chosen]
        width = max(len(name) for name in names)
        yield ""
        yield title
        for name, label in zip(names, chosen, strict=True):
            count = self.class_counts[label]
            yield f"{name:{width}}  {count:9,}  {count / self.manifest.count:6.1%}"


def measure(directory: Path, resolution: int | None = None) -> Statistics:
    """Decode every image of a set and compute its exact statistics, at this resolution or as they are stored.

    Raises DataError if the set is damaged or incomplete.
    """
    shards = open_to_look(directory, resolution)
    sizes, labels = load_columns(shards)
    channels, height, width = shards.image_shape
    return Statistics(
        shards.manifest,
        (height, width, channels),
        _count_values(shards),
        int(sizes.sum()),
        count_classes(shards.manifest, labels),
    )


def open_to_look(directory: Path, resolution: int | None) -> ShardSet:
    """Open a set whose images are looked at, at this resolution: by default as they are stored.

    Originals, which are of any size, are looked at as squares of LOOKED_AT pixels by default. Raises DataError.
    """
    shards = open_directory(directory)
    if resolution is None and shards.manifest.is_of_originals:
        resolution = LOOKED_AT
    return in_shape(shards, DataOptions(resolution=resolution))


def load_columns(shards: ShardSet) -> tuple[Counts, Counts]:
    """The size in bytes and the label of every image, each int64 (count,). Raises DataError if an index is damaged."""
    indexes = [shards.load_index(shard) for shard in shards.manifest.shards]
    return (
        np.concatenate([index[:, SIZE] for index in indexes]),
        np.concatenate([index[:, LABEL] for index in indexes]),
    )


def count_classes(manifest: Manifest, labels: Counts) -> tuple[int, ...]:
    """Count the labels, int64 (count,), of each class. Raises DataError for a label outside the classes."""
    if not manifest.classes:
        return ()
    if manifest.is_of_originals:
        labels = labels[labels != -1]  # those without a label
    outside = np.flatnonzero((labels < 0) | (labels >= len(manifest.classes)))
    if len(outside):
        raise DataError(
            f"Sample {outside[0]} has label {labels[outside[0]]}, but manifest.json has "
            f"{counted(len(manifest.classes), 'class')}, numbered from 0. `wgan shards check` lists all defects; "
            "copy the set again, or make it again."
        )
    return tuple(np.bincount(labels, minlength=len(manifest.classes)).tolist())


def choose_classes(counts: Sequence[int]) -> tuple[list[int], str]:
    """The labels to list, and a title: all in order, or if there are many, the largest and the smallest classes."""
    if len(counts) <= MOST_CLASSES:
        return list(range(len(counts))), "images of each class"
    half = MOST_CLASSES // 2
    ranked = sorted(range(len(counts)), key=lambda label: (-counts[label], label))
    title = (
        f"images of each class: the {half} largest and the {half} smallest of {counted(len(counts), 'class')}"
    )
    return ranked[:half] + ranked[-half:], title


def _count_values(shards: ShardSet) -> Counts:
    """The histogram of the pixel values of each channel: int64 (channels, 256)."""
    from pipeline.data.reading.reader import ShardReader  # imports PyTorch, which takes seconds

    reader, count = ShardReader(shards), shards.manifest.count
    at_once = max(1, BATCH_BYTES // reader.image_bytes)
    batches = [np.arange(first, min(first + at_once, count)) for first in range(0, count, at_once)]

    def count_batch(ids: Counts) -> Counts:
        stopping.check()
        channels = reader.read(ids).numpy().swapaxes(0, 1)
        return np.stack([np.bincount(channel.ravel(), minlength=VALUES) for channel in channels])

    histogram = np.zeros((shards.image_shape[0], VALUES), dtype=np.int64)
    with (
        tqdm(total=count, unit="image", desc="measure", disable=None) as bar,
        ThreadPoolExecutor(available_cores()) as pool,
    ):
        for ids, counted in zip(batches, pool.map(count_batch, batches), strict=True):
            histogram += counted
            bar.update(len(ids))
    return histogram

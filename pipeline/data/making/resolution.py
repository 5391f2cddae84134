"""The resolution of a set of shards: the one that the user gives, or that of the source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.data.format.picture_files import read_picture_file
from pipeline.data.sources import Picture, Source
from pipeline.errors import ConfigError, DataError

MEASURED_IMAGES = 16
MOST_SIZES = 4

Size = tuple[int, int]
"""(height, width)."""


@dataclass(frozen=True)
class ChosenSize:
    """The (height, width) of the shards, and whether images of another size are resized or refused."""

    resolution: Size
    resizes: bool = True


def choose_resolution(source: Source, wanted: Size | None) -> ChosenSize:
    """The wanted size, or the source's own, or the one that its first images have; then all images must have it.

    Raises ConfigError if the first images have different sizes; the message says which. Raises DataError if none of
    them can be read.
    """
    if resolution := wanted or source.native_resolution:
        return ChosenSize(resolution)
    found, defects = _measure(source)
    if len(found) == 1:
        return ChosenSize(found[0], resizes=False)
    if not found and defects:
        raise DataError(
            f"None of the images of {source.name} that were tried ({len(defects)}) can be used, so their size is "
            f"unknown; for example {defects[0]}. Replace them, or give --resolution and --skip-bad all."
        )
    raise ConfigError(_ask(source, found))


def _ask(source: Source, sizes: list[Size]) -> str:
    why = "all images of a set of shards must have one size."
    what = "Give the side in pixels, for example --resolution 64, or height and width, for example --resolution 90x160."
    if not sizes:
        return f"--resolution is missing: {source.name} has images of any size, and {why} {what}"
    shown = ", ".join(f"{height} x {width}" for height, width in sizes[:MOST_SIZES])
    more = ", ..." if len(sizes) > MOST_SIZES else ""
    return (
        f"--resolution is missing: the first images of {source.name} have different sizes "
        f"({shown}{more}), and {why} {what}"
    )


def _measure(source: Source) -> tuple[list[Size], list[str]]:
    """The different sizes of the first images, and the names of those that cannot be read, with the reasons."""
    sizes, defects = [], []
    for position in range(min(MEASURED_IMAGES, len(source))):
        try:
            sizes.append(_size_of(source.read(position)))
        except DataError as error:
            defects.append(f"{source.key(position)}: {str(error).rstrip('.')}")
    return list(dict.fromkeys(sizes)), defects


def _size_of(picture: Picture) -> Size:
    if isinstance(picture, np.ndarray):
        return picture.shape[0], picture.shape[1]
    return read_picture_file(picture).upright_size

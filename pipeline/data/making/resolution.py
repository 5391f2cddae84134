"""The resolution of a set of shards: the one that the user gives, or that of the source."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from pipeline.data.sources import Picture, Source
from pipeline.data.sources.pictures import FORMATS
from pipeline.errors import ConfigError, DataError
from pipeline.wording import counted

MEASURED_IMAGES = 16
MOST_SIZES = 4

Size = tuple[int, int]
"""(height, width)."""


def choose_resolution(source: Source, wanted: Size | None) -> Size:
    """The wanted (height, width), or else the source's own.

    Raises ConfigError if there is neither; the message says which sizes the first images have.
    """
    resolution = wanted or source.native_resolution
    if resolution is None:
        raise ConfigError(_ask(source, list(_first_sizes(source))))
    return resolution


def _ask(source: Source, found: list[Size]) -> str:
    why = "all images of a set of shards must have one size."
    if not found:
        return (
            f"--resolution is missing: {source.name} has images of any size, and {why} Give the side in pixels, for "
            "example --resolution 64, or height and width, for example --resolution 90x160."
        )
    sizes = list(dict.fromkeys(found))
    images = "image of" if len(found) == 1 else f"{counted(len(found), 'image')} of"
    if len(sizes) == 1:
        height, width = sizes[0]
        side = str(height) if height == width else f"{height}x{width}"
        return (
            f"--resolution is missing: the first {images} {source.name} {'is' if len(found) == 1 else 'are'} "
            f"{height} x {width} pixels, but others may differ, and {why} To keep this size, give "
            f"--resolution {side}; images of other sizes will be resized."
        )
    shown = ", ".join(f"{height} x {width}" for height, width in sizes[:MOST_SIZES])
    more = ", ..." if len(sizes) > MOST_SIZES else ""
    return (
        f"--resolution is missing: the first {images} {source.name} have different sizes ({shown}{more}), and {why} "
        "Give the side in pixels, for example --resolution 64, or height and width, for example --resolution 90x160."
    )


def _first_sizes(source: Source) -> Iterator[Size]:
    """The sizes of the first images, without those that cannot be read."""
    for position in range(min(MEASURED_IMAGES, len(source))):
        try:
            yield _size_of(source.read(position))
        except (DataError, OSError, ValueError, Image.DecompressionBombError):
            continue  # making shards reports such an image with its name


def _size_of(picture: Picture) -> Size:
    if isinstance(picture, np.ndarray):
        return picture.shape[0], picture.shape[1]
    image = Image.open(io.BytesIO(picture), formats=FORMATS)
    return image.height, image.width

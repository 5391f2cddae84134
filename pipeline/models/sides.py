"""The size of images as networks take it: one side, or height and width."""

from __future__ import annotations

from pipeline.option_types import sides_of

Resolution = int | tuple[int, int]
"""The side of square images, or (height, width), in pixels."""


def simplest(resolution: Resolution) -> Resolution:
    """One side for squares, (height, width) for all others."""
    height, width = sides_of(resolution)
    return height if height == width else (height, width)


def described(resolution: Resolution) -> str:
    """In the words of messages: 28x56, height before width."""
    return "{}x{}".format(*sides_of(resolution))


def as_option(resolution: Resolution) -> str:
    """The option that gives images this size: data.resolution: 64, or data.resolution: [90, 160]."""
    size = simplest(resolution)
    return f"data.resolution: {size if isinstance(size, int) else list(size)}"

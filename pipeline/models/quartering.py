"""The resolutions of networks that halve the sides of their maps twice."""

from __future__ import annotations

from pipeline.errors import ConfigError
from pipeline.models.sides import Resolution, as_option, described
from pipeline.option_types import sides_of


def quarter(resolution: Resolution, name: str) -> tuple[int, int]:
    """The (height, width) of the maps after two halvings, in pixels.

    Raises ConfigError, which names the architecture, unless both sides are multiples of 4 and at least 8.
    """
    height, width = sides_of(resolution)
    if any(side < 8 or side % 4 for side in (height, width)):
        nearest = (_nearest(height), _nearest(width))
        raise ConfigError(
            f"model.name: {name} does not support images of {described(resolution)}: it halves both sides twice, so "
            f"height and width must be multiples of 4 and at least 8. Set {as_option(nearest)}."
        )
    return height // 4, width // 4


def _nearest(side: int) -> int:
    return max(8, (side + 2) // 4 * 4)

"""The resolutions of networks that halve the side of their maps twice."""

from __future__ import annotations

from pipeline.errors import ConfigError


def quarter(resolution: int, name: str) -> int:
    """The side of the maps after two halvings, in pixels.

    Raises ConfigError, which names the architecture, unless `resolution` is a multiple of 4 and at least 8.
    """
    if resolution < 8 or resolution % 4:
        nearest = max(8, (resolution + 2) // 4 * 4)
        raise ConfigError(
            f"model.name: {name} does not support images of {resolution}x{resolution}: it halves their side twice, "
            f"so the side must be a multiple of 4 and at least 8. Make shards with --resolution {nearest}."
        )
    return resolution // 4

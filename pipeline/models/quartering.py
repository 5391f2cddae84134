"""Resolutions for networks that halve their maps twice, whatever the images."""

from __future__ import annotations

from pipeline.errors import ConfigError


def quarter(resolution: int, name: str) -> int:
    """The side of maps after two halvings, in pixels.

    Raises ConfigError, which names the architecture, unless `resolution` is a multiple of 4 from 8 on.
    """
    if resolution < 8 or resolution % 4:
        nearest = max(8, (resolution + 2) // 4 * 4)
        raise ConfigError(
            f"model.name: {name} has no network for {resolution}x{resolution} images, which its layers halve "
            f"twice; it needs a multiple of 4, and at least 8. Make shards with --resolution {nearest}."
        )
    return resolution // 4

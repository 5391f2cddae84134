"""How many images that cannot be used may be left out: the value of --skip-bad."""

from __future__ import annotations

import re
from dataclasses import dataclass

from pipeline.errors import ConfigError


@dataclass(frozen=True)
class BadLimit:
    """At most `count` images or, if that is None, this share of all images, from 0 to 1."""

    count: int | None = 0
    share: float = 0.0

    def of(self, images: int) -> int:
        """The limit for a set of so many images."""
        return int(images * self.share) if self.count is None else self.count


def parse_limit(text: str) -> BadLimit:
    """3, 5% or all. Raises ConfigError for anything else."""
    if text == "all":
        return BadLimit(None, 1.0)
    if re.fullmatch(r"[0-9]{1,12}", text):
        return BadLimit(int(text))
    if (percent := re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", text)) and float(percent[1]) <= 100:
        return BadLimit(None, float(percent[1]) / 100)
    raise ConfigError(
        f"--skip-bad {text} is not a limit. Give a number of images, a percentage such as 5%, or all."
    )

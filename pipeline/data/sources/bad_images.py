"""Images that cannot be used: how many may be left out (--skip-bad), and the list of those that were."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.errors import ConfigError
from pipeline.foreign_text import printable

BAD_NAME = "bad-images.txt"
LONGEST_TEXT = 10_000


class BadImage(NamedTuple):
    """An image that is left out, by its name in the source, and the reason."""

    name: str
    reason: str


def list_of_images(rows: Iterable[tuple[str, ...]]) -> bytes:
    """The content of a list of images: a line for each, with tabs between its columns."""
    lines = ("\t".join(printable(text, LONGEST_TEXT) for text in row) + "\n" for row in rows)
    return "".join(lines).encode("utf-8", "replace")


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

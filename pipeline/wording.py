"""Counts, lists and times in messages: "1 image", "2 images", "1,234 classes"; "cat, dog and 3 more"; "0:01:30"."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from pipeline.foreign_text import printable

MOST_LISTED = 5
MOST_YEARS = 100
SIBILANTS = ("s", "x", "ch", "sh")


def counted(count: int, noun: str) -> str:
    """A number with its noun, in the singular for 1 and in the plural for all else."""
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The regular English plural: image, images; class, classes; copy, copies."""
    if noun.endswith(SIBILANTS):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def listed(names: Sequence[str]) -> str:
    """Names of others in a row, made safe to show; of many only the first: "cat, dog and 3 more"."""
    shown = ", ".join(map(printable, names[:MOST_LISTED]))
    return f"{shown} and {len(names) - MOST_LISTED:,} more" if len(names) > MOST_LISTED else shown


def duration(seconds: float) -> str:
    """A time as "h:mm:ss", with the days before it if there are any; "over 100 years" where that says enough."""
    if not seconds < MOST_YEARS * 366 * 86_400:
        return f"over {MOST_YEARS} years"
    return str(timedelta(seconds=round(seconds)))

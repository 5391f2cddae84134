"""Counts and lists in messages: "1 image", "2 images", "1,234 classes"; "cat, dog and 3 more"."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.foreign_text import printable

MOST_LISTED = 5
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

"""Which classes a generator's images are to be of: names and numbers that a user gives, and labels for the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.errors import ConfigError
from pipeline.foreign_text import printable

MOST_NAMES = 20
NO_CLASSES = (
    "The generator has no classes: it was not trained with model.conditional: true. Leave the classes out."
)


def places_of(known: Sequence[str], chosen: Sequence[str | int]) -> list[int]:
    """The places of these classes among the known ones; all in their order if none are chosen.

    A class is given by its name or, if no class has that name, by its place. Raises ConfigError for an unknown one.
    """
    places = {name: place for place, name in enumerate(known)}
    return [_place(places, str(name)) for name in chosen] or list(range(len(known)))


def labels_in_turn(places: Sequence[int], count: int) -> Tensor | None:
    """Labels of `count` images that take these classes in turn: int64 (count,); None without classes."""
    return torch.tensor(places)[torch.arange(count) % len(places)] if places else None


def _place(places: dict[str, int], name: str) -> int:
    if name in places:
        return places[name]
    if name.isascii() and name.isdecimal() and len(name) < 10 and int(name) < len(places):
        return int(name)
    names = ", ".join(printable(known) for known in list(places)[:MOST_NAMES])
    more = ", ..." if len(places) > MOST_NAMES else ""
    raise ConfigError(
        f"class {printable(name)}: the generator knows no such class. "
        + (f"It knows {names}{more}, or 0 to {len(places) - 1}. Name one of these." if places else NO_CLASSES)
    )

"""Which maps of files are known, by the places that they have in memory."""

from __future__ import annotations

from pipeline.data.format import mapped_file
from pipeline.data.format.mapped_file import _Map, _note


class Memory:
    """Stands for a map: it can be referred to weakly, and is gone when nothing refers to it."""


def test_a_map_is_known_while_an_earlier_one_of_its_place_is_finalized() -> None:
    """As it happens if a thread maps a file where another thread has just given memory back."""
    first, second = Memory(), Memory()
    earlier, later = _Map(4096, 100), _Map(4096, 100)
    _note(earlier, first)
    _note(later, second)
    del first
    assert later in mapped_file._maps
    assert earlier not in mapped_file._maps
    del second
    assert later not in mapped_file._maps

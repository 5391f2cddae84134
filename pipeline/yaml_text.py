"""The one way to read YAML: plain values, each key once, within limits of size and depth, and the line of each key."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, NoReturn

import yaml

from pipeline.foreign_text import printable

MOST_BYTES, MOST_VALUES, MOST_LEVELS = 1 << 16, 5_000, 16
"""Limits for a text, so that none takes longer than about a second. A config has 3 kB with 100 values on 3 levels."""


MOST_DIGITS, MOST_SHOWN = 100, 300
INTEGER = "tag:yaml.org,2002:int"


class Yaml(NamedTuple):
    """What a YAML text holds, and where."""

    content: Any
    places: dict[tuple[str, ...], str]
    """The line of each key of nested mappings, such as "line 3"."""


def parse_yaml(text: str) -> Yaml:
    """Read one YAML document; None for an empty one.

    Raises ValueError with a short text for anything else, and for aliases, tags, keys that are given twice, and
    documents that are too large or too deeply nested.
    """
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has {len(text):,} characters, and at most {MOST_BYTES:,} are allowed")
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Yaml(None, {})
        places: dict[tuple[str, ...], str] = {}
        _note_places(node, (), places)
        return Yaml(loader.construct_document(node), places)
    # PyYAML's constructors let errors of Python's own types through, such as that of a date that does not exist.
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise ValueError(printable(_describe(error), MOST_SHOWN)) from None
    finally:
        if loader is not None:
            loader.dispose()


class _Loader(yaml.SafeLoader):
    """Plain YAML without aliases and tags, in which 5e-5 is a number (in YAML 1.1 it is text)."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = self._level = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            _refuse("aliases (*name) are not supported", event)
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            _refuse(f"tags such as {tag} are not supported: write the plain value", event)
        self._values += 1
        self._level += 1
        if self._values > MOST_VALUES:
            _refuse(f"there are more than {MOST_VALUES:,} keys and values", event)
        if self._level > MOST_LEVELS:
            _refuse(f"values are nested on more than {MOST_LEVELS} levels", event)
        node = super().compose_node(parent, index)
        self._level -= 1
        if isinstance(node, yaml.ScalarNode) and node.tag == INTEGER and len(node.value) > MOST_DIGITS:
            _refuse(f"a number has {len(node.value):,} digits", event)
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _describe(error: Exception) -> str:
    """What PyYAML says, on one line, without the text around it."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        found = ", ".join(filter(None, (error.context, error.problem)))
        return f"{found} (line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1})"
    return " ".join(str(error).split())


def _refuse(problem: str, event: Any) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _note_places(node: yaml.Node, path: tuple[str, ...], places: dict[tuple[str, ...], str]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*path, str(key.value))
        if here in places:
            raise yaml.MarkedYAMLError(
                problem=f"{'.'.join(here)} is given twice, first on {places[here]}",
                problem_mark=key.start_mark,
            )
        places[here] = f"line {key.start_mark.line + 1}"
        _note_places(value, here, places)
